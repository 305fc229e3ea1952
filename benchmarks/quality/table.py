"""TABLE.md from the records alone. What is missing is shown as missing."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.quality import stats
from benchmarks.quality.caveats import notes
from benchmarks.quality.grids import Grids, Key
from benchmarks.quality.results import Record
from benchmarks.quality.targets import targets

MISSING = "–"
CURVES = ("ratio", "rounds")


def table(records: Sequence[Record]) -> str:
    """The whole page as Markdown."""
    if not records:
        return "# Does unlabeled data help?\n\nThere are no results yet.\n"
    grids = Grids(records)
    parts = [head(grids), judged(grids), sizes(grids), accuracies(grids), comparisons(grids), reduction(grids), pseudo(grids)]
    parts += [ratio_curve(grids), rounds_curve(grids), notes(grids), commands(grids)]
    return "\n\n".join(part for part in parts if part) + "\n"


def head(grids: Grids) -> str:
    def words(of: Callable[[Record], str]) -> str:
        counts = Counter(map(of, grids.records)).most_common()
        return "; ".join(f"{word} ({n} pieces)" if len(counts) > 1 else word for word, n in counts)

    dates = sorted(record["date"][:10] for record in grids.records)
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    machines = words(_machine)
    return "\n".join(
        [
            "# Does unlabeled data help?",
            "",
            f"{span}; {len(grids.tasks)} tasks, seeds {', '.join(map(str, grids.seeds))}; {len(grids.good)} pieces. "
            "A seed draws the labeled rows and seeds training and sampling; "
            + (
                "tested on rows left over from the training files (--dev), drawn by the seed as well: no result to quote."
                if any(record["dev"] for record in grids.records)
                else "test rows are the same for every seed."
            ),
            f"Base LM: {words(lambda r: r['lm'])}. Machine: {machines}. Commit: {words(lambda r: r['commit'])}.",
            *([f"Command: `{grids.records[0]['command']}`."] if len(_commands(grids)) == 1 else []),
        ]
    )


def commands(grids: Grids) -> str:
    """Where there were several: each with the number of its pieces."""
    found = _commands(grids)
    lines = [f"- {count} pieces: `{command}`" for command, count in found.most_common()]
    return "## Commands\n\n" + "\n".join(lines) if len(found) > 1 else ""


def _commands(grids: Grids) -> Counter[str]:
    return Counter(record["command"] for record in grids.records)


def _machine(record: Record) -> str:
    machine, ran = record["machine"], record["environment"]
    return f"{machine['cpu']}, {machine['cores']} cores, {ran['device']}, {ran['precision']}, {ran['threads']} threads"


def judged(grids: Grids) -> str:
    rows = [(target.wanted, target.measured, target.status) for target in targets(grids)]
    return "## Targets\n\n" + markdown(("target", "measured", "status"), rows)


def sizes(grids: Grids) -> str:
    """Rows of each task. Counts that differ from seed to seed are given as least to most."""
    roles = ("labeled", "unlabeled", "validation", "test", "answers")
    whole = [record for record in grids.records if record["unlabeled_ratio"] is None]
    rows = []
    for task, title in grids.tasks.items():
        found = [[record["counts"][role] for record in whole if record["task"] == task] for role in roles]
        shown = [MISSING if not n else str(min(n)) if min(n) == max(n) else f"{min(n)} to {max(n)}" for n in found]
        rows.append((task, title, *shown))
    text = "## Tasks\n\nNo arm trains on validation rows, whose answers are known: the guard decides by them.\n\n"
    return text + markdown(("task", "", *roles), rows)


def accuracies(grids: Grids) -> str:
    """Mean over seeds with its t interval's half width; the last column is the mean over tasks, if all are there."""
    rows = []
    for name, record in grids.arms.items():
        if record["group"] in CURVES:
            continue
        values = stats.by_task(grids.accuracy.get(name, {}))
        cells = [cell(values.get(task), len(grids.seeds)) for task in grids.tasks]
        mean = f"{stats.mean_over_tasks(grids.accuracy[name]):.1f}" if len(values) == len(grids.tasks) else MISSING
        rows.append((record["title"], *cells, mean))
    guarded, _ = grids.guarded()
    values = stats.by_task(guarded)
    if values:
        mean = f"{stats.mean_over_tasks(guarded):.1f}" if len(values) == len(grids.tasks) else MISSING
        rows.append(
            (
                f"{grids.arms[grids.roles['ours']]['title']}, after the guard",
                *(cell(values.get(task), len(grids.seeds)) for task in grids.tasks),
                mean,
            )
        )
    text = (
        "## Accuracy\n\nIn percent, mean over seeds ± half of the 95 % t interval over seeds. Seeds share the test "
        "rows: how much other ones would change is not in it.\n\n"
    )
    return text + markdown(("arm", *grids.tasks, "mean over tasks"), rows)


def cell(values: Sequence[float] | None, seeds: int) -> str:
    """Where fewer than `seeds` are there, how many."""
    if not values:
        return MISSING
    interval = stats.t_interval(values)
    width = "" if interval.half is None else f" ± {interval.half:.1f}"
    fewer = f" ({interval.n} seed{'s' * (interval.n > 1)})" if interval.n < max(seeds, 2) else ""
    return f"{interval.mean:.1f}{width}{fewer}"


def comparisons(grids: Grids) -> str:
    ours = grids.roles["ours"]
    rows = []
    for name, record in grids.arms.items():
        found = stats.paired(grids.ours, grids.accuracy.get(name, {}), grids.bits.get(ours, {}), grids.bits.get(name, {}))
        if name == ours or record["group"] in CURVES or found is None:
            continue
        rows.append(
            (
                record["title"],
                ranged(found.over_pieces),
                ranged(found.over_tasks),
                f"{found.won} / {found.lost} of {found.over_pieces.n}",
                *(chance(p) for p in (found.p_t, found.p_wilcoxon, found.p_mcnemar)),
            )
        )
    if not rows:
        return ""
    columns = (
        "against",
        "over tasks x seeds",
        "over task means",
        "pieces won / lost",
        "p (t, pieces)",
        "p (Wilcoxon, pieces)",
        "p (McNemar, rows pooled)",
    )
    text = (
        f"## {grids.arms[ours]['title'].capitalize()} minus each arm\n\n"
        "Points of accuracy on the same rows of the same (task, seed), with 95 % t intervals. Seeds of a task share its test "
        f"rows, so of the two the interval over task means is the one for claims about new tasks.{_drawn_from(grids)} The p "
        "values take pieces or rows as independent and are not corrected for the number of arms, so as claims about new tasks "
        "they are too small.\n\n"
    )
    return text + markdown(columns, rows)


def _drawn_from(grids: Grids) -> str:
    sets = sorted(set(grids.datasets.values()))
    if len(sets) == len(grids.tasks):
        return ""
    of = f" These {len(grids.tasks)} are drawn from {len(sets)} data sets ({', '.join(sets)})"
    return f"{of}: as a claim about new data sets it is too narrow as well."


def reduction(grids: Grids) -> str:
    found = stats.reductions(grids.ours, grids.control)
    if not found:
        return ""
    closed = stats.gap_closed(grids.ours, grids.control, grids.ceiling)
    guarded, _ = grids.guarded()
    kept = stats.task_means(stats.difference(guarded, grids.control))
    gain = stats.task_means(stats.difference(grids.ours, grids.control))
    rows = [
        (
            task,
            f"{gain[task]:+.1f}",
            f"{kept[task]:+.1f}",
            f"{100 * found[task]:+.1f} %" if task in found else MISSING,
            f"{100 * closed[task]:.0f} %" if task in closed else MISSING,
        )
        for task in gain
    ]
    across = stats.t_interval(list(found.values()))
    boot = stats.bootstrap_reduction(grids.ours, grids.control)
    total = stats.gap_closed_together(grids.ours, grids.control, grids.ceiling)
    lines = [
        f"Mean error reduction over tasks {percent(across)} (t interval over {across.n} tasks, which the target is judged by)"
    ]
    if boot:
        lines[0] += f"; bootstrap over tasks, then seeds: {percent(boot)}."
    sets = stats.by_group(found, grids.datasets)
    if len(sets) < len(found):
        each = ", ".join(f"{name} {100 * value:+.1f} %" for name, value in sets.items())
        lines.append(
            f"By data set, mean over its tasks first: {each}; mean {percent(stats.t_interval(list(sets.values())))} "
            f"(t interval over {len(sets)} data sets, the one for claims about others than these)."
        )
    if total:
        share = f"mean gain by mean gap of {total[1]} tasks: {100 * total[0]:.0f} %"
        lines.append(f"Share of the gap to the ceiling that is closed, {share}.")
    columns = ("task", "gain, points", "gain after the guard", "error reduction", "gap closed")
    return "## Against the strict control, task by task\n\n" + markdown(columns, rows) + "\n\n" + "\n".join(lines)


def pseudo(grids: Grids) -> str:
    """Pseudo-label accuracy of the arms that make some, means over pieces with gold."""
    rows = []
    for name, record in grids.arms.items():
        found = [
            r["pseudo"] for r in grids.good if r["arm"] == name and r.get("pseudo") and r["pseudo"]["accuracy_all"] is not None
        ]
        if not found or record["group"] in CURVES:
            continue
        chosen = [p["accuracy_selected"] for p in found if p.get("accuracy_selected") is not None]
        kept = [p["selected"] / p["pool"] for p in found if "selected" in p]
        agreed = [p["consistent"] / p["pool"] for p in found if "consistent" in p]
        rows.append(
            (
                record["title"],
                *(
                    f"{100 * sum(v) / len(v):.1f}" if v else MISSING
                    for v in ([p["accuracy_all"] for p in found], chosen, kept, agreed)
                ),
            )
        )
    columns = ("arm", "right, all rows", "right, selected", "selected", "all votes agree")
    return "## Pseudo-labels\n\nIn percent, means over tasks and seeds.\n\n" + markdown(columns, rows) if rows else ""


def ratio_curve(grids: Grids) -> str:
    points = {
        f"{100 * r['unlabeled_ratio']:.0f} %": grids.accuracy.get(name, {})
        for name, r in grids.arms.items()
        if r["group"] == "ratio"
    }
    return curve(grids, "Accuracy against unlabeled : labeled", points, {"all": grids.ours})


def rounds_curve(grids: Grids) -> str:
    most = max((len(r["rounds"]) for r in grids.good if r["group"] == "rounds"), default=0)
    points = {f"round {number}": grids.round(number) for number in range(1, most + 1)}
    return curve(grids, "Accuracy against rounds", points, {})


def curve(grids: Grids, title: str, points: Mapping[str, Mapping[Key, float]], end: Mapping[str, Mapping[Key, float]]) -> str:
    """The tasks that have a point of the curve; the control stands before it, `end` after it."""
    measured = {task for grid in points.values() for task, _ in grid}
    columns = {"control": grids.control, **points, **end}
    rows = []
    for task in (task for task in grids.tasks if task in measured):
        values = [stats.by_task(grid).get(task) for grid in columns.values()]
        rows.append((task, *(cell(found, len(grids.seeds)) for found in values)))
    return f"## {title}\n\n" + markdown(("task", *columns), rows) if rows else ""


# --- small words ------------------------------------------------------------------------------------------------------


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def ranged(interval: stats.Interval) -> str:
    return f"{interval.mean:+.1f}" + ("" if interval.low is None else f" [{interval.low:+.1f}, {interval.high:+.1f}]")


def percent(interval: stats.Interval) -> str:
    scaled = [None if value is None else 100 * value for value in (interval.mean, interval.low, interval.high)]
    return f"{scaled[0]:+.1f} %" + ("" if scaled[1] is None else f" [{scaled[1]:+.1f}, {scaled[2]:+.1f}]")


def chance(p: float | None) -> str:
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"

"""What a reader of the table has to know besides: what failed, what is missing, what does not go together."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.quality.grids import Grids, Key
from benchmarks.quality.results import Record

AGAIN = "run the others again (--force) before you quote this table"


def notes(grids: Grids) -> str:
    there = {(r["task"], r["seed"], r["arm"]) for r in grids.records}
    absent = [key for key in ((t, s, a) for t in grids.tasks for s in grids.seeds for a in grids.arms) if key not in there]
    lines = [
        f"- failed: {r['task']}, seed {r['seed']}, {r['title']}: {r['error']['type']}: {r['error']['message']}"
        for r in grids.failed
    ]
    for arm, count in Counter(arm for _, _, arm in absent).items():
        lines.append(f"- missing: {count} of {len(grids.tasks) * len(grids.seeds)} pieces of {grids.arms[arm]['title']}")
    lines += [*_same_as_ours(grids), *_stopped(grids)]
    for task in _several(grids.records, lambda r: r["task"], _device):
        devices = sorted({_device(r) for r in grids.records if r["task"] == task})
        lines.append(f"- the arms of {task} ran on several devices, whose last bits differ: {', '.join(devices)}")
    lines += [f"- careful: {words}; {AGAIN}" for words in mixed(grids)]
    return "## Notes\n\n" + "\n".join(lines) if lines else ""


def mixed(grids: Grids) -> list[str]:
    """In which ways the records are not of one benchmark. Records are paired by name alone, so this is looked at here."""
    wholes = (("lm", "base LMs"), ("roles", "choices of default and control"))
    found = [f"the pieces come from several {word}" for what, word in wholes if _differ(grids.records, lambda r, w=what: r[w])]
    if _differ(grids.records, lambda r: r["code"]):
        inside = _several(grids.records, lambda r: r["task"], lambda r: r["code"])
        where = f", those of {', '.join(inside)} even within the task" if inside else ""
        found.append(f"the pieces come from several versions of the algorithm{where}")
    if _differ(grids.records, lambda r: r["dev"]):
        found.append("some pieces were tested on left-over training rows (--dev), others on test rows")
    whole = [record for record in grids.records if record["unlabeled_ratio"] is None]
    for task, seed in _several(whole, lambda r: (r["task"], r["seed"]), lambda r: r["data"]):
        found.append(f"the arms of {task}, seed {seed} were given different rows")
    for task, arm in _several(grids.records, lambda r: (r["task"], r["arm"]), lambda r: {**r["spec"], "seed": None}):
        found.append(f"the pieces of {arm} on {task} come from several specs")
    return found


def _device(record: Record) -> str:
    return str(record["environment"]["device"])


def _several(records: Iterable[Record], group: Callable[[Record], Key], value: Callable[[Record], Any]) -> list[Any]:
    """The groups in which records differ, in order."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(group(record), []).append(record)
    return [name for name, members in sorted(groups.items()) if _differ(members, value)]


def _differ(records: Iterable[Record], value: Callable[[Record], Any]) -> bool:
    found = [value(record) for record in records]
    return any(one != found[0] for one in found)


def _same_as_ours(grids: Grids) -> list[str]:
    """Where an arm of kind job is right and wrong on ours' very rows: what it changes made no difference there.

    Not by their specs: a selector of another name may keep the same rows.
    """
    jobs = {record["arm"] for record in grids.good if record["kind"] == "job" and record["unlabeled_ratio"] is None}
    name, lines = grids.roles["ours"], []
    ours = grids.bits.get(name, {})
    for arm in (arm for arm in grids.arms if arm in jobs - {name}):
        shared = ours.keys() & grids.bits[arm].keys()
        if same := sum(grids.bits[arm][key] == ours[key] for key in shared):
            pieces = f"{same} of {len(shared)} pieces, right and wrong on the same test rows"
            lines.append(f"- {grids.arms[arm]['title']} is {grids.arms[name]['title']} in {pieces}")
    return lines


def _stopped(grids: Grids) -> list[str]:
    """How often an arm that may stop early did. One that never does was not shown to have had enough training."""
    runs: dict[str, list[bool]] = {}
    for record in grids.good:
        if record["kind"] in ("early", "gold"):
            runs.setdefault(record["arm"], []).append(record["training"]["epochs"] < record["training"]["horizon"])
    return [
        f"- {grids.arms[arm]['title']}: stopped before its horizon: {sum(runs[arm])} of {len(runs[arm])} pieces"
        for arm in grids.arms
        if arm in runs
    ]

"""What the default has to reach, judged from the grids alone: pass, fail, or not measured with what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.quality import stats
from benchmarks.quality.grids import Grids

LEAST_TASKS, LEAST_SEEDS = 6, 5
LEAST_REDUCTION, REACH = 0.15, 0.25
SELF_TRAINED = ("lr_self_training", "lr_self_training_weighted")
WORST = -1.0  # points that a task may lose after the guard


@dataclass(frozen=True, slots=True)
class Target:
    wanted: str
    measured: str
    status: Literal["pass", "fail", "not measured"]


def targets(grids: Grids) -> list[Target]:
    return [
        error_reduction(grids),
        harmless(grids),
        above(grids, ("knn",), "above the kNN vote on the mean over tasks"),
        above(grids, SELF_TRAINED, "above logistic regression's self-training on the mean over tasks"),
        unbeaten(grids),
        second_round(grids),
    ]


def short_of(grid: Mapping[tuple[str, int], object]) -> str | None:
    """What is missing for a claim: tasks with enough seeds."""
    tasks: dict[str, int] = {}
    for task, _ in grid:
        tasks[task] = tasks.get(task, 0) + 1
    full = sum(count >= LEAST_SEEDS for count in tasks.values())
    return None if full >= LEAST_TASKS else f"{full} of {LEAST_TASKS} tasks with {LEAST_SEEDS} seeds"


def error_reduction(grids: Grids) -> Target:
    wanted = f"error at least {LEAST_REDUCTION:.0%} below the strict control, interval above zero (reach {REACH:.0%})"
    found = stats.reductions(grids.ours, grids.control)
    if not found:
        return Target(wanted, "no shared piece", "not measured")
    interval = stats.t_interval(list(found.values()))
    width = "" if interval.low is None else f" [{interval.low:+.1%}, {interval.high:+.1%}]"
    measured = f"{interval.mean:+.1%}{width} over {interval.n} tasks"
    sets = stats.by_group(found, grids.datasets)
    if len(sets) < interval.n:
        wide = stats.t_interval(list(sets.values()))
        width = "" if wide.low is None else f" [{wide.low:+.1%}, {wide.high:+.1%}]"
        measured += f" (by data set {wide.mean:+.1%}{width} over {wide.n}, not judged by)"
    missing = short_of(stats.difference(grids.ours, grids.control))
    if not missing and interval.n < LEAST_TASKS:  # where the control errs nowhere there is no share of its error to take away
        missing = f"{interval.n} of {LEAST_TASKS} tasks in which the control errs"
    if missing:
        return Target(wanted, f"{measured}; {missing}", "not measured")
    good = interval.mean >= LEAST_REDUCTION and interval.low is not None and interval.low > 0
    reached = "; reach met" if good and interval.mean >= REACH else ""
    return Target(wanted, measured + reached, "pass" if good else "fail")


def harmless(grids: Grids) -> Target:
    wanted = f"no task worse than the strict control by more than {-WORST:g} point after the guard"
    guarded, returned = grids.guarded()
    gaps = stats.task_means(stats.difference(guarded, grids.control))
    if not gaps:
        return Target(wanted, "no shared piece", "not measured")
    worst = min(gaps, key=lambda task: gaps[task])
    measured = f"worst {gaps[worst]:+.1f} ({worst}); the guard returned the control in {returned} of {len(guarded)} pieces"
    if missing := short_of(guarded):
        return Target(wanted, f"{measured}; {missing}", "not measured")
    return Target(wanted, measured, "pass" if gaps[worst] >= WORST else "fail")


def above(grids: Grids, rivals: Sequence[str], wanted: str) -> Target:
    """Against the strongest rival that was run, on the pieces that all of them have: the easier one is nobody's choice."""
    run = [arm for arm in rivals if arm in grids.arms]
    keys = set(grids.ours).intersection(*(grids.accuracy.get(arm, {}) for arm in run))
    if not run or not keys:
        return Target(wanted, "no shared piece", "not measured")
    theirs = {arm: {key: grids.accuracy[arm][key] for key in keys} for arm in run}
    strongest = max(run, key=lambda arm: stats.mean_over_tasks(theirs[arm]))  # ties go to the first
    gap = stats.difference(grids.ours, theirs[strongest])
    measured = f"{_over_tasks(gap)} points over {len(stats.task_means(gap))} tasks"
    if len(rivals) > 1:
        chosen = "the stronger" if len(run) > 1 else "the only one run"
        measured += f', against "{grids.arms[strongest]["title"]}", {chosen} of {len(rivals)}'
    if missing := short_of(gap):
        return Target(wanted, f"{measured}; {missing}", "not measured")
    return Target(wanted, measured, "pass" if stats.mean_over_tasks(gap) > 0 else "fail")


def _over_tasks(gap: stats.Grid) -> str:
    """Mean of the task means, and its 95 % t interval where there are two tasks."""
    interval = stats.t_interval(list(stats.task_means(gap).values()))
    return f"{interval.mean:+.1f}" + ("" if interval.low is None else f" [{interval.low:+.1f}, {interval.high:+.1f}]")


def unbeaten(grids: Grids) -> Target:
    """An ablation beats the default when the interval over pieces (the narrower one, so the stricter test) is above zero."""
    wanted = "not beaten by any ablation by more than its interval"
    every = {arm: stats.difference(grids.accuracy.get(arm, {}), grids.ours) for arm in grids.ablations}
    found = {arm: gap for arm, gap in every.items() if gap}
    if not found:
        return Target(wanted, "no ablation measured", "not measured")
    intervals = {arm: stats.t_interval(list(gap.values())) for arm, gap in found.items()}
    beaten = [
        f"{arm} {i.mean:+.1f} [{i.low:+.1f}, {i.high:+.1f}]" for arm, i in intervals.items() if i.low is not None and i.low > 0
    ]
    closest = max(intervals, key=lambda arm: intervals[arm].mean)
    measured = "; ".join(beaten) or f"of {len(found)} ablations the closest: {closest} {intervals[closest].mean:+.1f}"
    missing = [f"{arm}: {lacks}" for arm, gap in every.items() if (lacks := short_of(gap))]
    if missing:
        return Target(wanted, f"{measured}; {missing[0]}", "not measured")
    return Target(wanted, measured, "fail" if beaten else "pass")


def second_round(grids: Grids) -> Target:
    """With the job's own rule: the second round is taken where it is better on the validation rows, else the first."""
    wanted = "a second round, taken as a job takes it (by the validation rows), does not lose what the first won"
    plain, gap = grids.second_round()
    if not gap:
        return Target(wanted, "no piece with two rounds", "not measured")
    measured = f"second minus first {_over_tasks(plain)} points; as the job would choose {_over_tasks(gap)}"
    if missing := short_of(gap):
        return Target(wanted, f"{measured}; {missing}", "not measured")
    return Target(wanted, measured, "pass" if stats.mean_over_tasks(gap) >= 0 else "fail")

"""The arithmetic of the comparison: paired differences, error reduction, what the guard would do. Numbers in, numbers out.

A grid is {(task, seed): value}; only pairs that are on both sides count, and nothing missing is filled in. Intervals are
95 %. Pieces of one task share its test rows, so an interval over pieces is too narrow as a claim about new tasks: the one
over task means is not, and both are shown. Tasks of one data set are alike in turn, so as a claim about new data sets only
one over the means of data sets will do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Grid = Mapping[tuple[str, int], float]
Bits = Mapping[tuple[str, int], str]
LEVEL = 0.95
RESAMPLES = 10_000
DECIMALS = 9  # of a difference: accuracies are quotients, and their last bits would tell ties apart


@dataclass(frozen=True, slots=True)
class Interval:
    """`low` and `high` are None where fewer than two values leave nothing to say about spread."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Paired:
    """left minus right, in points of accuracy. `p_*` are two-sided; None where the test cannot be done.

    `p_t` and `p_wilcoxon` are over pieces, `p_mcnemar` over rows: none of them knows that pieces of a task share their rows.
    """

    over_pieces: Interval
    over_tasks: Interval
    p_t: float | None
    p_wilcoxon: float | None
    p_mcnemar: float | None
    won: int  # pieces in which left is better
    lost: int


def t_interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean; no width with fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, None, None, len(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def by_task(grid: Grid) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (task, _), value in sorted(grid.items()):
        found.setdefault(task, []).append(value)
    return found


def task_means(grid: Grid) -> dict[str, float]:
    return {task: float(np.mean(values)) for task, values in by_task(grid).items()}


def shared(left: Grid, right: Grid) -> list[tuple[str, int]]:
    return sorted(left.keys() & right.keys())


def difference(left: Grid, right: Grid) -> dict[tuple[str, int], float]:
    """Equal differences come out equal: Wilcoxon's ranks and "constant" below depend on it."""
    return {key: round(left[key] - right[key], DECIMALS) for key in shared(left, right)}


def paired(left: Grid, right: Grid, left_bits: Bits, right_bits: Bits) -> Paired | None:
    """None where the two share no piece. Accuracies in percent."""
    gap = difference(left, right)
    if not gap:
        return None
    values = list(gap.values())
    moved = [value for value in values if value != 0]
    constant = len(set(values)) == 1
    return Paired(
        over_pieces=t_interval(values),
        over_tasks=t_interval(list(task_means(gap).values())),
        p_t=None if len(values) < 2 or constant else float(stats.ttest_1samp(values, 0.0).pvalue),
        p_wilcoxon=float(stats.wilcoxon(moved).pvalue) if len(moved) > 1 else None,
        p_mcnemar=mcnemar(left_bits, right_bits),
        won=sum(value > 0 for value in values),
        lost=sum(value < 0 for value in values),
    )


def mcnemar(left: Bits, right: Bits) -> float | None:
    """Exact McNemar test on the rows of all shared pieces together: the binomial on those that one side alone got right.

    Rows recur from seed to seed, so its p is too small as a claim about new rows; it is shown, never judged by.
    """
    only_left = only_right = 0
    for key in left.keys() & right.keys():
        if len(left[key]) == len(right[key]):
            pairs = list(zip(left[key], right[key], strict=True))
            only_left += pairs.count(("1", "0"))
            only_right += pairs.count(("0", "1"))
    if only_left + only_right == 0:
        return None
    return float(stats.binomtest(only_left, only_left + only_right, 0.5).pvalue)


# --- error reduction --------------------------------------------------------------------------------------------------


def reductions(ours: Grid, control: Grid) -> dict[str, float]:
    """Per task 1 - err_ours / err_control of the mean errors over shared seeds. A task without errors to reduce is left out."""
    keys = shared(ours, control)
    mine, theirs = task_means({k: 100 - ours[k] for k in keys}), task_means({k: 100 - control[k] for k in keys})
    return {task: 1 - mine[task] / theirs[task] for task in mine if theirs[task] > 0}


def by_group(values: Mapping[str, float], group: Mapping[str, str]) -> dict[str, float]:
    """Mean over the tasks of each group (data set), tasks weighing equally within it."""
    found: dict[str, list[float]] = {}
    for task, value in values.items():
        found.setdefault(group[task], []).append(value)
    return {name: float(np.mean(members)) for name, members in sorted(found.items())}


def bootstrap_reduction(ours: Grid, control: Grid, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
    """Percentile interval of the mean reduction over tasks: tasks are drawn with replacement, then seeds within each."""
    keys = shared(ours, control)
    tasks: dict[str, list[tuple[float, float]]] = {}
    for key in keys:
        tasks.setdefault(key[0], []).append((100 - ours[key], 100 - control[key]))
    errors = [np.array(pairs) for pairs in tasks.values() if sum(theirs for _, theirs in pairs) > 0]
    if not errors:
        return None
    generator = np.random.Generator(np.random.Philox(seed))
    means = np.empty(resamples)
    for i in range(resamples):
        drawn = []
        for t in generator.integers(len(errors), size=len(errors)):
            mine, theirs = errors[t][generator.integers(len(errors[t]), size=len(errors[t]))].sum(0)
            drawn.append(1 - mine / theirs if theirs > 0 else 0.0)
        means[i] = np.mean(drawn)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    point = float(np.mean([1 - pairs[:, 0].sum() / pairs[:, 1].sum() for pairs in errors]))
    return Interval(point, float(low), float(high), len(errors))


def gap_closed(ours: Grid, control: Grid, ceiling: Grid) -> dict[str, float]:
    """Per task the share of the way from control to ceiling, on shared seeds. Tasks with no gap to close are left out."""
    keys = sorted(ours.keys() & control.keys() & ceiling.keys())
    mine, low, high = (task_means({k: grid[k] for k in keys}) for grid in (ours, control, ceiling))
    return {task: (mine[task] - low[task]) / (high[task] - low[task]) for task in mine if high[task] > low[task]}


def gap_closed_together(ours: Grid, control: Grid, ceiling: Grid) -> tuple[float, int] | None:
    """(mean gain over mean gap, number of tasks); None where the ceiling is not above the control on the mean over tasks.

    Unlike a mean of the tasks' own shares it is not ruled by the task with the smallest gap, and leaves no task out.
    """
    keys = sorted(ours.keys() & control.keys() & ceiling.keys())
    if not keys:
        return None
    mine, low, high = (mean_over_tasks({k: grid[k] for k in keys}) for grid in (ours, control, ceiling))
    return ((mine - low) / (high - low), len({task for task, _ in keys})) if high > low else None


def after_guard(
    evolved: Grid, control: Grid, evolved_validation: Grid, control_validation: Grid
) -> tuple[dict[tuple[str, int], float], int]:
    """(accuracy of what the guard would return, pieces in which that is the control).

    The better one on the validation rows; evolved on ties and where there are no validation rows.
    """
    found, returned = {}, 0
    for key in shared(evolved, control):
        judged = key in evolved_validation and key in control_validation
        keeps_control = judged and control_validation[key] > evolved_validation[key]
        found[key] = control[key] if keeps_control else evolved[key]
        returned += keeps_control
    return found, returned


def mean_over_tasks(grid: Grid) -> float:
    return float(np.mean(list(task_means(grid).values())))

"""The rounds of a job: run until validation rows see no more gain, and the best of them is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.semisup.data import Prediction
from worker.semisup.guard import guarded
from worker.semisup.keep import Keep
from worker.semisup.round import RoundResult, run_round
from worker.semisup.spec import JobSpec
from worker.semisup.stages.evaluate import evaluate
from worker.semisup.task import Task

NO_ADAPTER = -1  # right answers of a round that has nothing to give: any other round is better


@dataclass(frozen=True)
class Rounds:
    """`validated`: each round's answers on the validation rows, empty where those were not asked. `taken`: index of `made`."""

    made: tuple[RoundResult, ...]
    validated: tuple[tuple[Prediction, ...], ...]
    taken: int
    ended: Literal["all_run", "no_gain"]

    @property
    def result(self) -> RoundResult:
        return self.made[self.taken]

    @property
    def checked(self) -> tuple[Prediction, ...]:
        """What the taken round's adapter answers on the validation rows."""
        return self.validated[self.taken]


def run_rounds(task: Task, keep: Keep) -> Rounds:
    """At most `spec.rounds` rounds. Without validation rows all are run and the last is taken."""
    spec, rows = task.spec, task.split.validation
    made: list[RoundResult] = []
    validated: list[tuple[Prediction, ...]] = []
    ended: Literal["all_run", "no_gain"] = "all_run"
    for number in range(1, spec.rounds + 1):
        inside = keep.within(f"round-{number}")
        made.append(run_round(task, number, made[-1] if made else None, inside))
        validated.append(validate(task, made[-1], inside) if rows and asked(spec) else ())
        if stops(_right(made, validated), len(rows), spec.min_gain, spec.patience) and number < spec.rounds:
            ended = "no_gain"
            break
    right = _right(made, validated)
    taken = best(right, len(rows), spec.min_gain) if right else len(made) - 1
    return Rounds(tuple(made), tuple(validated), taken, ended)


def asked(spec: JobSpec) -> bool:
    """Whether validation rows have anything to decide about rounds or about the result."""
    return spec.rounds > 1 or guarded(spec.evaluation)


def validate(task: Task, result: RoundResult, keep: Keep) -> tuple[Prediction, ...]:
    return keep.map("validate", task.split.validation, lambda part: evaluate(task, result.evolved, part, None))


def best(right: Sequence[int], rows: int, min_gain: float) -> int:
    """Index of the round to take: a later one only where it beats the best so far by more than `min_gain` of the rows."""
    found = 0
    for index, count in enumerate(right):
        if (count - right[found]) / rows > min_gain:
            found = index
    return found


def stops(right: Sequence[int], rows: int, min_gain: float, patience: int) -> bool:
    """Whether the last `patience` rounds all failed to beat the best one. Never without validation rows or patience."""
    return bool(right) and patience > 0 and len(right) - 1 - best(right, rows, min_gain) >= patience


def _right(made: Sequence[RoundResult], validated: Sequence[Sequence[Prediction]]) -> list[int]:
    """Right validation answers of each round; nothing where no validation rows were asked."""
    pairs = zip(made, validated, strict=True)
    return [sum(p.correct for p in answers) if result.evolved else NO_ADAPTER for result, answers in pairs if answers]

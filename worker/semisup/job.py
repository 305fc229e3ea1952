"""A whole job: the rounds, the controls, the guard, the report, the artefacts. The same in a service and on a command line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from worker.semisup.arms import Arm, run_arms
from worker.semisup.artefacts import Ending, write_artefacts
from worker.semisup.data import Adapter, Folder, Prediction, Report, Split
from worker.semisup.errors import DataError
from worker.semisup.guard import Decision, arrange, decide, guarded
from worker.semisup.ingest.load import overlaps
from worker.semisup.inputs import MIN_LABELED
from worker.semisup.keep import Keep
from worker.semisup.lm import Lab
from worker.semisup.report import Findings, write_report
from worker.semisup.rounds import Rounds, run_rounds
from worker.semisup.spec import JobSpec
from worker.semisup.splits import first_alike
from worker.semisup.stages.evaluate import evaluate
from worker.semisup.start import check_start
from worker.semisup.task import Task, make_task


@dataclass(frozen=True)
class Outcome:
    """`adapter` is the job's result: the arm that `decision` names."""

    adapter: Adapter
    report: Report
    artefacts: Folder
    decision: Decision


def run_job(
    spec: JobSpec,
    split: Split,
    *,
    lab: Lab,
    keep: Keep,
    gold: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    shared: Mapping[str, int] | None = None,
    start: Adapter | None = None,
    learned: frozenset[str] = frozenset(),
    late_notes: Callable[[], Sequence[str]] = tuple,
) -> Outcome:
    """Run every stage that `keep` has not kept yet. `gold` holds answers of unlabeled rows: only the report sees them.

    `split` is the files as they are; who decides and who is reported is arranged here. `shared` counts the rows that two
    files had in common before any were dropped; default: those of `split`. `start` is an earlier job's adapter, which warm-up
    goes on from (without unlabeled rows, the one training there is). `learned` are ids of labeled rows that an adapter among
    the collaborators was trained on (start.answered_from_memory). `late_notes` is asked just before the report.
    Raises a SemisupError for data that cannot be used; every other stage's output stays kept for the next try.
    """
    if start:
        check_start(spec, {"trainable": start.kind}, whose="the earlier job", unlabeled=bool(split.unlabeled))
    task = make_task(lab, spec, split)
    rows, source = arrange(spec, task.split)
    task = replace(task, split=rows, start=start, learned=learned)
    check_labels(task)
    rounds = run_rounds(task, keep) if split.unlabeled else None
    if rounds and rounds.result.evolved is None:
        raise DataError(
            "No unlabeled row got a usable pseudo-response and in_weight is off, so there is nothing to train on.",
            code="no_samples_selected",
            hint="Switch propagation.in_weight on, or give clearer labeled examples.",
        )
    arms = run_arms(task, rounds.result if rounds else None, keep)
    controls = _validated_controls(task, arms, rounds, keep)
    checked, alike = rounds.checked if rounds else None, first_alike(task.split.validation)
    decision = decide(spec.evaluation, checked, controls, rounds=rounds is not None, alike=alike)
    adapters = {arm.name: arm.adapter for arm in arms if arm.adapter and not arm.neighbours}
    adapter = adapters.pop(decision.result)
    told = dict.fromkeys((*notes, *late_notes(), *had_to(task, arms, rounds)))  # a keep may know of what a stage says itself
    found = Findings(source, decision, tuple(controls), shared or overlaps(split), tuple(told))
    report = keep("report", lambda: write_report(task, arms, rounds, gold or {}, found))
    rest = adapters.get("evolved") or adapters.get("labels_only_early")
    ending = Ending(adapter, decision.result, rest)
    artefacts = keep("artifacts", lambda: write_artefacts(task, ending, rounds, report, keep.seconds()))
    return Outcome(adapter, report, artefacts, decision)


def check_labels(task: Task) -> None:
    """Raises DataError where what was held out leaves too few labels: each of them is judged by others at some time."""
    left = len(set(first_alike(task.split.labeled)))
    if left < MIN_LABELED:
        raise DataError(
            f"{left} labeled rows that ask different things are left to train on; at least {MIN_LABELED} are needed.",
            code="too_few_labeled",
            param="training_file",
            hint="Add labeled rows, or give a test_file, so that none of them has to be held out.",
        )


def had_to(task: Task, arms: Sequence[Arm], rounds: Rounds | None) -> list[str]:
    """What trainings and generation had to do to get through: smaller batches, a step left out."""
    made = [part for r in (rounds.made if rounds else ()) for part in (r.warm, r.calibration, *r.cross_fit, r.evolved)]
    parts = [*made, *(part for arm in arms for part in (arm.stop, arm.adapter))]
    return list(dict.fromkeys([note for part in parts if part for note in part.notes] + task.lab.batches.notes))


def _validated_controls(task: Task, arms: Sequence[Arm], rounds: Rounds | None, keep: Keep) -> tuple[Prediction, ...]:
    """What the early-stopped labels-only adapter answers on the validation rows, where the guard wants to know."""
    if not rounds or not task.split.validation or not guarded(task.spec.evaluation):
        return ()
    early = next(arm.adapter for arm in arms if arm.name == "labels_only_early")
    return keep.map("labels-only/validate", task.split.validation, lambda part: evaluate(task, early, part, None))

"""A whole job: the controls, the rounds, the report, the artefacts. Runs the same in a service and on a command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.semisup.arms import Arm, run_arms
from worker.semisup.artefacts import write_artefacts
from worker.semisup.data import Adapter, Folder, Report, Split
from worker.semisup.errors import DataError
from worker.semisup.keep import Keep
from worker.semisup.lm import Lab
from worker.semisup.report import write_report
from worker.semisup.round import RoundResult, run_round
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import JobSpec
from worker.semisup.stages.train import choose_stop, horizon, labels_only_early, stratified_split
from worker.semisup.task import make_task


@dataclass(frozen=True)
class Outcome:
    """`adapter` is the job's result: the evolved adapter, or the labels-only one where there was no unlabeled file."""

    adapter: Adapter
    report: Report
    artefacts: Folder


def run_job(
    spec: JobSpec,
    split: Split,
    *,
    lab: Lab,
    keep: Keep,
    gold: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Outcome:
    """Run every stage that `keep` has not kept yet. `gold` holds answers of unlabeled rows: only the report sees them.

    Raises a SemisupError for data that cannot be used; every other stage's output stays kept for the next try.
    """
    task = make_task(lab, spec, held_out_split(spec, split))
    rounds: list[RoundResult] = []
    if split.unlabeled:
        for number in range(1, spec.rounds + 1):
            before = rounds[-1] if rounds else None
            rounds.append(run_round(task, number, before, keep.within(f"round-{number}")))
        adapter = rounds[-1].evolved
    else:
        stop = keep("labels-only/stop", lambda: choose_stop(task, horizon(task)))
        adapter = keep("labels-only/early", lambda: labels_only_early(task, stop))
    if adapter is None:
        raise DataError(
            "No unlabeled row got a usable pseudo-response and in_weight is off, so there is nothing to train on.",
            code="no_samples_selected",
            hint="Switch propagation.in_weight on, or give clearer labeled examples.",
        )
    arms: list[Arm] = run_arms(task, rounds, keep)
    report = keep("report", lambda: write_report(task, arms, rounds, gold or {}, notes))
    artefacts = keep("artifacts", lambda: write_artefacts(task, adapter, rounds, report, keep.seconds()))
    return Outcome(adapter, report, artefacts)


def held_out_split(spec: JobSpec, split: Split) -> Split:
    """The split as it is, or with a stratified share of the labeled rows held out where no test file was given."""
    if split.held_out:
        return split
    fraction = spec.evaluation.held_out_fraction
    rest, drawn = stratified_split(split.labeled, fraction, derive_seed(spec.seed, "held-out"))
    return Split(tuple(rest), split.unlabeled, tuple(drawn))

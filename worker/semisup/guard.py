"""Which rows decide and which are reported, and which adapter is the job's result.

Validation rows decide, the rest of the held-out rows are only reported (methods.md A2): no number in a report was looked at
by anything that could have made it better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worker.semisup.data import Prediction, Split
from worker.semisup.intervals import paired
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import Evaluation, JobSpec
from worker.semisup.splits import stratified_split, systematic_split

MIN_VALIDATION = 10  # rows; with fewer, one answer moves accuracy by more than unlabeled data ever did

File = Literal["validation_file", "test_file", "training_file"]
Result = Literal["evolved", "labels_only_early"]  # names of arms
Reason = Literal["better", "tie", "worse", "asked", "no_unlabeled", "no_labels_only", "no_validation"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the validation rows are from: all of `file`, or a `share` of its rows. No rows: `note` says why."""

    file: File | None
    share: float | None
    rows: int
    note: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`result` names the arm whose adapter the job ends with. `paired` is evolved minus labels-only on validation rows."""

    result: Result
    reason: Reason
    rows: int = 0
    evolved: float | None = None  # accuracy on the validation rows
    labels_only: float | None = None
    paired: dict[str, Any] | None = None


# --- rows ---------------------------------------------------------------------------------------------------------------


def arrange(spec: JobSpec, split: Split) -> tuple[Split, Source]:
    """Who decides and who is reported. A validation file beside a test file decides; else a share of the one file there is.

    Where neither was given, a share of the labels is held out first. Jobs without unlabeled rows have nothing to decide.
    """
    labeled, held_out, validation = split.labeled, split.held_out, split.validation
    if held_out and validation and split.unlabeled:
        if len(validation) < MIN_VALIDATION:
            return Split(labeled, split.unlabeled, held_out), _too_few("validation_file", None, len(validation))
        return split, Source("validation_file", None, len(validation), f"All {len(validation)} rows of the validation file.")
    file: File = "test_file" if held_out else "validation_file" if validation else "training_file"
    rows = held_out or validation
    if not rows:
        labeled, rows = stratified_split(labeled, spec.evaluation.held_out_fraction, derive_seed(spec.seed, "held-out"))
    if not split.unlabeled:
        return Split(labeled, (), rows), Source(None, None, 0, "Without unlabeled rows there is nothing to decide.")
    share = spec.evaluation.validation_fraction
    reported, decide = systematic_split(rows, share, derive_seed(spec.seed, "validation"))
    if len(decide) < MIN_VALIDATION or not reported:
        return Split(labeled, split.unlabeled, rows), _too_few(file, share, len(decide))
    named = "the rows held out of the training file" if file == "training_file" else f"the {file.replace('_', ' ')}"
    note = f"{len(decide)} of the {len(rows)} rows of {named} decide; they are not among the reported rows."
    return Split(labeled, split.unlabeled, reported, decide), Source(file, share, len(decide), note)


def _too_few(file: File, share: float | None, rows: int) -> Source:
    of = f"{rows} rows" if share is None else f"{rows} rows ({100 * share:g} % of those held out)"
    note = f"No guard: {of} of '{file}' could decide, at least {MIN_VALIDATION} are needed."
    return Source(None, None, 0, note)


# --- the decision ---------------------------------------------------------------------------------------------------------


def guarded(spec: Evaluation) -> bool:
    """Whether validation rows choose between evolved and labels-only."""
    return spec.keep == "best" and spec.baselines


def decide(
    spec: Evaluation,
    evolved: Sequence[Prediction] | None,
    labels_only: Sequence[Prediction] | None,
    *,
    rounds: bool,
    alike: Sequence[int] | None = None,
) -> Decision:
    """The arm to keep. Predictions are those on the same validation rows, None or empty where there are none.

    `alike` says which of the rows are copies of one another (splits.first_alike).

    With `keep: best` the better accuracy wins, and evolved where they are equal.
    """
    if not rounds:
        return Decision("labels_only_early", "no_unlabeled")
    if spec.keep != "best":
        return Decision("evolved" if spec.keep == "evolved" else "labels_only_early", "asked")
    if not spec.baselines:
        return Decision("evolved", "no_labels_only")
    if not evolved or not labels_only:
        return Decision("evolved", "no_validation")
    ours, theirs = [p.correct for p in evolved], [p.correct for p in labels_only]
    gap = sum(ours) - sum(theirs)
    return Decision(
        "labels_only_early" if gap < 0 else "evolved",
        "better" if gap > 0 else "worse" if gap < 0 else "tie",
        len(ours),
        sum(ours) / len(ours),
        sum(theirs) / len(theirs),
        paired(ours, theirs, spec.confidence, alike),
    )


# --- in words -------------------------------------------------------------------------------------------------------------


def summary(decision: Decision, comparison: dict[str, Any] | None, rows: int, level: float, source: Source) -> str:
    """What the reported rows say of evolved against early-stopped labels-only, which adapter is the result, and why.

    A difference is claimed where its interval at `level` leaves out 0 and the exact McNemar test agrees: on few rows the
    normal interval alone is too narrow. `comparison` is `paired` on the `rows` reported rows.
    """
    kept = "the evolved adapter is the result" if decision.result == "evolved" else "the labels-only adapter is the result"
    why = _why(decision, source)
    if comparison is None:
        missing = "no unlabeled data" if decision.reason == "no_unlabeled" else "no labels-only arm to compare with"
        return f"There is {missing}: nothing is claimed, {kept}{why}."
    points, half = 100 * comparison["difference"], 100 * comparison["half_width"]
    shown = abs(points) > half and comparison["p_mcnemar"] < 1 - level
    where = f"on {rows} held-out rows"
    if not shown:
        said = f"No difference could be shown to labels-only (early-stopped): {points:+.1f} ± {half:.1f} points {where}"
        return f"{said}; {kept}{why}."
    if points > 0:
        said = f"Unlabeled data helped by {points:.1f} ± {half:.1f} points over labels-only (early-stopped) {where}"
        return f"{said}{'; ' if decision.result == 'evolved' else ', yet '}{kept}{why}."
    said = f"Evolved was worse than labels-only (early-stopped) by {-points:.1f} ± {half:.1f} points {where}"
    return f"{said}{', ' if decision.result == 'labels_only_early' else ', yet '}{kept}{why}."


def _why(decision: Decision, source: Source) -> str:
    if decision.evolved is not None and decision.labels_only is not None:
        scores = f"{100 * decision.evolved:.1f} % evolved, {100 * decision.labels_only:.1f} % labels-only"
        return f" ({decision.rows} validation rows: {scores})"
    if decision.reason == "asked":
        return " (evaluation.keep asked for it)"
    if decision.reason == "no_labels_only":
        return " (evaluation.baselines is off, so the guard had nothing to judge)"
    return f" ({source.note[0].lower()}{source.note[1:].removesuffix('.')})" if decision.reason == "no_validation" else ""

"""What "auto" in a job spec means once the answers are known: one table, printed with the report's spec.

A closed set of answers (choice, label) gives every vote a distribution over it, so that votes of any kind can be pooled with
weights that are measured. Open answers have no such set: there the paper's own steps are taken. Measured in docs/LOG.md.
"""

from worker.semisup.answers import Answers
from worker.semisup.errors import SpecError
from worker.semisup.spec import DEFAULT_COLLABORATORS, POOLED_COLLABORATORS, AutoSelection, JobSpec, KeepAll, Percentile

TOKEN_DROP = 0.15  # of the words of a question with a closed set of answers; of an open one each word may be the point
CLOSED_VIEWS = ("logistic", "self_training", "label_propagation")  # collaborators that are classifiers


def settle(spec: JobSpec, answers: Answers) -> JobSpec:
    """`spec` with nothing left to decide. Raises SpecError for what open answers cannot have."""
    closed = answers.closed
    if not closed:
        _refuse_closed(spec, answers)
    chosen = spec.resolve.resolver
    resolver = chosen if chosen != "auto" else "pool" if closed else "justify"
    pooled = resolver == "pool"
    propagation, calibration, evolve, selection = spec.propagation, spec.calibration, spec.evolve, spec.selection
    if propagation.collaborators == "auto":
        usual = POOLED_COLLABORATORS if closed else DEFAULT_COLLABORATORS
        propagation = propagation.model_copy(update={"collaborators": usual})
    if propagation.confidence == "auto":
        propagation = propagation.model_copy(update={"confidence": "share" if answers.kind == "text" else "mean"})
    if calibration.mode == "auto":
        calibration = calibration.model_copy(update={"mode": "cross_fit"})
    if evolve.relabel == "auto":
        evolve = evolve.model_copy(update={"relabel": pooled})
    if evolve.objective == "auto":
        evolve = evolve.model_copy(update={"objective": "weighted_sft" if pooled else "sft"})
    if evolve.token_drop == "auto":
        evolve = evolve.model_copy(update={"token_drop": TOKEN_DROP if closed else 0.0})
    if isinstance(selection, AutoSelection):
        caps = selection.caps
        if pooled and caps.contradictions == "auto":
            caps = caps.model_copy(update={"contradictions": "drop"})
        selection = KeepAll(caps=caps) if pooled else Percentile(caps=caps)
    if selection.caps.contradictions == "auto":
        selection = selection.model_copy(update={"caps": selection.caps.model_copy(update={"contradictions": "keep"})})
    return spec.model_copy(
        update={
            "propagation": propagation,
            "resolve": spec.resolve.model_copy(update={"resolver": resolver}),
            "calibration": calibration,
            "evolve": evolve,
            "selection": selection,
        }
    )


def _refuse_closed(spec: JobSpec, answers: Answers) -> None:
    views = [c.name for c in spec.propagation.named if c.view in CLOSED_VIEWS]
    if views:
        raise SpecError(
            f"Collaborator {views[0]} is a classifier and needs a closed set of answers; this job's are {answers.kind}s.",
            param="propagation.collaborators",
            hint="Leave it out, or give answer.kind label with the allowed labels.",
        )
    if spec.resolve.resolver == "pool":
        raise SpecError(
            f"The resolver pool needs a closed set of answers; this job's answers are {answers.kind}s.",
            param="resolve.resolver",
            hint="Use justify or vote, or give answer.kind label with the allowed labels.",
        )

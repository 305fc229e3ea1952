"""Which candidates are trained on; mirrored by worker/semisup/selectors."""

from typing import Annotated, Literal

from pydantic import Field

from worker.semisup.spec.base import Spec


class Caps(Spec):
    """Applied after the cut, to what it keeps; the more confident row stays. Off by default, contradictions excepted."""

    contradictions: Literal["auto", "keep", "drop"] = Field(
        "auto",
        description="Rows of whose answer the LM is sure and which every classifier denies: the trace of instructions in them. "
        "`auto`: dropped where votes of both kinds are pooled and selection is left to us, else kept.",
    )
    max_near_duplicates: int | None = Field(
        None, ge=1, description="Of rows whose prompts are nearly the same, at most this many stay."
    )
    near_duplicate_similarity: float = Field(
        0.95, gt=0, le=1, description="Prompts are nearly the same from this cosine of their embeddings on."
    )
    max_class_share: float | None = Field(
        None, gt=0, le=1, description="No pseudo-label makes up more than this share of what is selected (or an equal share)."
    )


class Selecting(Spec):
    caps: Caps = Field(Caps(), description="Limits on near-duplicates and on each pseudo-label's share.")


class Percentile(Selecting):
    """SemiEvol's adaptive selector: keep mean_nll below the theta-th percentile of the pool."""

    strategy: Literal["percentile"] = "percentile"
    theta: float = Field(50.0, ge=0, le=100)
    scope: Literal["all", "disputed"] = Field("all", description="`disputed`: rows all collaborators agree on are kept uncut.")
    strict: bool = Field(True, description="Keep below the cut only; with all values equal, everything is kept.")


class ClassPercentile(Selecting):
    """The percentile cut within each pseudo-label, so that minority classes are not starved."""

    strategy: Literal["class_percentile"] = "class_percentile"
    theta: float = Field(50.0, ge=0, le=100)


class Threshold(Selecting):
    strategy: Literal["threshold"] = "threshold"
    max_mean_nll: float = Field(ge=0, description="Keep mean_nll at or below this, nats per token.")


class Agreement(Selecting):
    strategy: Literal["agreement"] = "agreement"
    min_agreement: float = Field(1.0, gt=0, le=1, description="Keep rows where at least this share of votes agree.")


class AutoSelection(Selecting):
    """With pooled votes everything that was answered, weighted by its confidence; else the percentile cut at 50."""

    strategy: Literal["auto"] = "auto"


class KeepAll(Selecting):
    """Everything that could be parsed: selection switched off."""

    strategy: Literal["all"] = "all"


class RandomShare(Selecting):
    """A control: a random share of what could be parsed."""

    strategy: Literal["random"] = "random"
    share: float = Field(0.5, ge=0, le=1)


class RiskControl(Selecting):
    """The largest set below a mean_nll whose pseudo-label precision is shown, on calibration rows, to be high enough."""

    strategy: Literal["risk_control"] = "risk_control"
    precision: float = Field(0.9, gt=0, lt=1, description="The share of right pseudo-labels that is promised.")
    confidence: float = Field(0.9, gt=0, lt=1, description="The promise fails with at most one minus this probability.")
    fallback: Literal["percentile", "all", "none"] = Field(
        "percentile", description="What is kept when the calibration rows allow no promise."
    )
    theta: float = Field(50.0, ge=0, le=100, description="The fallback percentile.")


# The first is what a block with fields but without a strategy is read as.
SelectionSpec = Annotated[
    Percentile | AutoSelection | ClassPercentile | Threshold | Agreement | KeepAll | RandomShare | RiskControl,
    Field(discriminator="strategy"),
]

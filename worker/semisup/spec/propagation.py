"""Who infers the unlabeled rows, how disputes end, and by which labeled rows votes are weighed."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from worker.semisup.spec.base import Auto, Spec, check_bounds

MAX_NEW_TOKENS = 8192


class Collaborator(Spec):
    """One inference configuration: an LM with its demonstrations, or (`view: knn`) the vote of the neighbours themselves.

    Which LM: the job's own with the round's adapter, or the one that `lm`, `adapter` or `engine` names.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    view: Literal["lm", "knn", "logistic", "self_training", "label_propagation"] = Field(
        "lm",
        description="All but `lm` are no LM calls but other views of the row, in the space of sentence embeddings: the "
        "neighbours' vote; logistic regression on the labeled rows; its self-training and label propagation over all rows.",
    )
    temperature: float = Field(1.0, ge=0, le=5, description="0 is greedy.")
    k: int | None = Field(None, ge=0, le=32, description="Demonstrations, or voting neighbours; default: propagation.k.")
    order: Literal["nearest_last", "nearest_first", "shuffled"] = Field(
        "nearest_last", description="How the demonstrations are laid out in the prompt."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Makes two otherwise equal collaborators sample differently.")

    lm: str | None = Field(None, min_length=1, max_length=255, description="Another base LM of this service, without adapter.")
    adapter: str | None = Field(None, min_length=1, max_length=255, description="A fine-tuned model of this service: ft:….")
    engine: str | None = Field(None, min_length=1, max_length=64, description="An engine the operator named (docs/engines.md).")
    optional: bool = Field(False, description="An engine that stays away costs its own votes, not the job.")

    @property
    def kind(self) -> Literal["own", "lm", "adapter", "engine", "view"]:
        """Which entry of stages/propagate.py KINDS works for it."""
        if self.view != "lm":
            return "view"
        return "lm" if self.lm else "adapter" if self.adapter else "engine" if self.engine else "own"

    @model_validator(mode="after")
    def _one_place(self) -> "Collaborator":
        given = [name for name in ("lm", "adapter", "engine") if getattr(self, name)] + ["view"] * (self.view != "lm")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: a collaborator runs in one place")
        if self.optional and not self.engine:
            raise ValueError("optional is for a collaborator with an engine; nothing else can stay away")
        return self


DEFAULT_COLLABORATORS = (
    Collaborator(name="a", order="nearest_last", seed=0),
    Collaborator(name="b", order="nearest_first", seed=1),
    Collaborator(name="c", order="shuffled", seed=2),
    Collaborator(name="d", order="shuffled", seed=3, k=2),
)


# What collaborates where the answers are a closed set: two greedy readings of the LM, and two views that are no LM at all.
POOLED_COLLABORATORS = (
    Collaborator(name="a", order="nearest_last", temperature=0.0),
    Collaborator(name="b", order="shuffled", temperature=0.0, seed=1),
    Collaborator(name="embedded", view="self_training"),
    Collaborator(name="spread", view="label_propagation", k=10),
)


class Propagation(Spec):
    in_weight: bool = Field(True, description="Infer with the warmed-up adapter; off: with the base LM.")
    in_context: bool = Field(True, description="Show the k nearest labeled examples in each unlabeled prompt.")
    k: int = Field(3, ge=1, le=32, description="Demonstrations per prompt (SemiEvol: 3).")
    collaboration: bool = Field(True, description="Off: only the first collaborator infers.")
    collaborators: Annotated[tuple[Collaborator, ...], Field(strict=False)] | Auto = Field(
        "auto",
        description="1 to 16. auto: for a closed set of answers two greedy LM readings, self-trained logistic regression and "
        "label propagation; for open answers the paper's four samples.",
    )
    max_new_tokens: int | Auto = Field(
        "auto", description="1 to 8192; auto: the longest labeled response, and half again for open answers."
    )
    confidence: Literal["auto", "mean", "first", "share"] = Field(
        "auto",
        description="mean: mean_nll over the agreeing votes; first: of the first vote alone; share: over the agreeing votes, "
        "less the log of their share of all votes, so that a small group of sure votes ranks below a large one. auto: share "
        "for texts, else mean. The pool has its own.",
    )
    chunk_size: int = Field(64, ge=1, le=4096, description="Rows per chunk: the unit of resume, progress and distribution.")

    @property
    def neighbours(self) -> int:
        """How many neighbours a query needs: the most that any collaborator looks at."""
        return max([self.k, *(c.k or 0 for c in self.named if c.view in ("lm", "knn"))])

    @property
    def named(self) -> tuple[Collaborator, ...]:
        """The collaborators the spec names itself; none where it leaves them to us."""
        return () if self.collaborators == "auto" else self.collaborators

    @property
    def active(self) -> tuple[Collaborator, ...]:
        """Those that infer. Only of a settled spec (worker/semisup/automatic.py)."""
        return self.named if self.collaboration else self.named[:1]

    @model_validator(mode="after")
    def _checks(self) -> "Propagation":
        names = [c.name for c in self.named]
        if self.collaborators != "auto" and not 1 <= len(names) <= 16:
            raise ValueError(f"1 to 16 collaborators, or 'auto'; got {len(names)}")
        if len(set(names)) != len(names):
            raise ValueError(f"collaborators need distinct names; got {names}")
        if any(c.view in ("knn", "label_propagation") and c.k == 0 for c in self.named):
            raise ValueError("a collaborator with view knn or label_propagation needs k of at least 1")
        check_bounds("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        return self


class Resolve(Spec):
    """What happens to a row whose collaborators disagree."""

    resolver: Literal["auto", "pool", "justify", "vote", "weighted_vote", "drop"] = Field(
        "auto",
        description="`pool`: all votes' distributions multiplied, each with a weight that was measured on labeled rows (closed "
        "sets only). `justify`: the LM decides between the candidates. Majority, also weighted by exp(-mean_nll). "
        "auto: pool for a closed set, else justify.",
    )
    max_new_tokens: int | Auto = Field("auto", description="1 to 8192; auto: propagation's, and room for a reason.")

    @model_validator(mode="after")
    def _bounds(self) -> "Resolve":
        check_bounds("max_new_tokens", self.max_new_tokens, 1, MAX_NEW_TOKENS)
        return self


class CalibrationSpec(Spec):
    """Labeled rows answered by networks that were not trained on them: what votes are weighed and confidence is measured by."""

    mode: Literal["auto", "cross_fit", "held_out", "off"] = Field(
        "auto",
        description="`cross_fit`: every labeled row is answered by the fold that left it out. `held_out`: a share of the "
        "labels is kept from warm-up and votes altogether (they join in evolve); what is promised on them is exact. "
        "auto: cross_fit. off: nothing is known of the pseudo-labels' precision, and the pool weighs all votes alike.",
    )
    folds: int = Field(3, ge=2, le=10, description="Warm-ups of cross_fit, each of the full length.")
    fraction: float = Field(0.3, gt=0, lt=1, description="Share of the labels for held_out.")

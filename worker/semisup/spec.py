"""The whole vocabulary of a job: frozen, closed, every field with its bounds and its reason. Pydantic only, no torch.

`JobSpec` is what `method.semi_supervised` holds on the wire (plus the two file ids, which belong to the API), what
`spec.yaml` holds on the command line, and what a stage is given. "auto" means: decided from the language model's size and
the data, and written into the report (see `stages/fit.py`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.semisup.errors import SpecError

Auto = Literal["auto"]
Format = Literal["auto", "plain", "in_context", "mixed"]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


# --- what counts as an answer ---------------------------------------------------------------------------------------


class AutoAnswer(Spec):
    """Options in the rows mean `choice`; few distinct short responses, `label`; bare numbers, `number`; else `text`."""

    kind: Literal["auto"] = "auto"


class ChoiceAnswer(Spec):
    """The answer is one of the row's options, given as its letter."""

    kind: Literal["choice"] = "choice"


class LabelAnswer(Spec):
    """The answer is one of a closed set of labels."""

    kind: Literal["label"] = "label"
    labels: tuple[str, ...] | None = Field(
        None, strict=False, description="Allowed labels; default: those of the labeled file."
    )


class NumberAnswer(Spec):
    kind: Literal["number"] = "number"
    tolerance: float = Field(0.0, ge=0, description="Two numbers agree when they differ by at most this (absolute).")


class TextAnswer(Spec):
    """Free text; two answers agree when they are equal after Unicode, case and space normalisation."""

    kind: Literal["text"] = "text"


AnswerSpec = Annotated[AutoAnswer | ChoiceAnswer | LabelAnswer | NumberAnswer | TextAnswer, Field(discriminator="kind")]

# --- training ---------------------------------------------------------------------------------------------------------


class LoraSpec(Spec):
    r: int = Field(16, ge=1, le=512, description="LoRA rank.")
    alpha: int = Field(32, ge=1, le=2048, description="LoRA scale; usually 2 * r.")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] = "all-linear"


class Training(Spec):
    """How one stage is trained. Paper defaults (SemiEvol, LoRA r=16, 2 epochs, cosine, warm-up ratio 0.1) for large LMs."""

    trainable: Literal["lora", "full"] = Field("lora", description="Train a LoRA adapter, or all weights.")
    n_epochs: int | Auto = Field("auto", description="1 to 1000 passes over the stage's data.")
    batch_size: int | Auto = Field("auto", description="Examples per optimizer step, 1 to 4096.")
    micro_batch_size: int = Field(16, ge=1, le=4096, description="Examples per forward pass; gradients add up to batch_size.")
    learning_rate: float | Auto = Field("auto", description="Peak learning rate, above 0 and at most 1.")
    learning_rate_multiplier: float | Auto = Field("auto", description="OpenAI's field: scales the learning rate.")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of steps over which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_length: int = Field(1024, ge=16, le=131072, description="Tokens per example; longer prompts lose their front.")
    lora: LoraSpec = Field(LoraSpec())

    @model_validator(mode="after")
    def _bounds(self) -> "Training":
        for name, low, high in (("n_epochs", 1, 1000), ("batch_size", 1, 4096)):
            value = getattr(self, name)
            if value != "auto" and not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, or 'auto'; got {value}")
        for name, limit in (("learning_rate", 1.0), ("learning_rate_multiplier", 100.0)):
            value = getattr(self, name)
            if value != "auto" and not 0 < value <= limit:
                raise ValueError(f"{name} must be above 0 and at most {limit:g}, or 'auto'; got {value}")
        return self


class Warmup(Spec):
    """In-weight propagation: fine-tuning on the labeled set before anything is inferred."""

    format: Format = Field("auto", description="Prompts with (`in_context`) or without (`plain`) leave-one-out neighbours.")
    n_epochs: int | Auto = Field("auto", description="Overrides hyperparameters.n_epochs for this stage.")


class Evolve(Spec):
    """The last fine-tuning of a round."""

    init: Literal["warmup", "base"] = Field("warmup", description="What the evolved adapter starts from.")
    data: Literal["labeled+selected", "selected"] = "labeled+selected"
    format: Format = "auto"
    objective: Literal["sft", "weighted_sft"] = Field(
        "sft", description="`weighted_sft` scales a pseudo-response by exp(-mean_nll)."
    )
    n_epochs: int | Auto = Field("auto", description="Overrides hyperparameters.n_epochs for this stage.")
    learning_rate_factor: float = Field(1.0, gt=0, le=100, description="Times the warm-up's learning rate.")


# --- propagation ------------------------------------------------------------------------------------------------------


class Collaborator(Spec):
    """One inference configuration: the LM with its demonstrations, or (`view: knn`) the vote of the neighbours themselves."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    view: Literal["lm", "knn"] = Field("lm", description="`knn` is no LM call: another view of the row, strong on intent data.")
    temperature: float = Field(1.0, ge=0, le=5, description="0 is greedy.")
    k: int | None = Field(None, ge=0, le=32, description="Demonstrations, or voting neighbours; default: propagation.k.")
    order: Literal["nearest_last", "nearest_first", "shuffled"] = Field(
        "nearest_last", description="How the demonstrations are laid out in the prompt."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Makes two otherwise equal collaborators sample differently.")


DEFAULT_COLLABORATORS = (
    Collaborator(name="a", order="nearest_last", seed=0),
    Collaborator(name="b", order="nearest_first", seed=1),
    Collaborator(name="c", order="shuffled", seed=2),
    Collaborator(name="d", order="shuffled", seed=3, k=2),
)


class Propagation(Spec):
    in_weight: bool = Field(True, description="Infer with the warmed-up adapter; off: with the base LM.")
    in_context: bool = Field(True, description="Show the k nearest labeled examples in each unlabeled prompt.")
    k: int = Field(3, ge=1, le=32, description="Demonstrations per prompt (SemiEvol: 3).")
    collaboration: bool = Field(True, description="Off: only the first collaborator infers.")
    collaborators: tuple[Collaborator, ...] = Field(DEFAULT_COLLABORATORS, strict=False, min_length=1, max_length=16)
    max_new_tokens: int | Auto = Field(
        "auto", description="1 to 8192; auto: the longest labeled response, and half again for open answers."
    )
    confidence: Literal["mean", "first"] = Field(
        "mean", description="mean_nll over the agreeing votes, or of the first vote alone."
    )
    chunk_size: int = Field(64, ge=1, le=4096, description="Rows per chunk: the unit of resume, progress and distribution.")

    @property
    def neighbours(self) -> int:
        """How many neighbours a query needs: the most that any collaborator looks at."""
        return max([self.k, *(c.k or 0 for c in self.collaborators)])

    @model_validator(mode="after")
    def _checks(self) -> "Propagation":
        names = [c.name for c in self.collaborators]
        if len(set(names)) != len(names):
            raise ValueError(f"collaborators need distinct names; got {names}")
        if any(c.view == "knn" and c.k == 0 for c in self.collaborators):
            raise ValueError("a collaborator with view knn needs k of at least 1")
        if self.max_new_tokens != "auto" and not 1 <= self.max_new_tokens <= 8192:
            raise ValueError(f"max_new_tokens must be between 1 and 8192, or 'auto'; got {self.max_new_tokens}")
        return self


class Resolve(Spec):
    """What happens to a row whose collaborators disagree."""

    resolver: Literal["justify", "vote", "weighted_vote", "drop"] = Field(
        "justify",
        description="Ask the LM to decide between the candidates; or majority; or majority weighted by exp(-mean_nll).",
    )
    max_new_tokens: int | Auto = "auto"


# --- selection --------------------------------------------------------------------------------------------------------


class Percentile(Spec):
    """SemiEvol's adaptive selector: keep mean_nll below the theta-th percentile of the pool."""

    strategy: Literal["percentile"] = "percentile"
    theta: float = Field(50.0, ge=0, le=100)
    scope: Literal["all", "disputed"] = Field("all", description="`disputed`: rows all collaborators agree on are kept uncut.")
    strict: bool = Field(True, description="Keep below the cut only; with all values equal, everything is kept.")


class ClassPercentile(Spec):
    """The percentile cut within each pseudo-label, so that minority classes are not starved."""

    strategy: Literal["class_percentile"] = "class_percentile"
    theta: float = Field(50.0, ge=0, le=100)


class Threshold(Spec):
    strategy: Literal["threshold"] = "threshold"
    max_mean_nll: float = Field(ge=0, description="Keep mean_nll at or below this, nats per token.")


class Agreement(Spec):
    strategy: Literal["agreement"] = "agreement"
    min_agreement: float = Field(1.0, gt=0, le=1, description="Keep rows where at least this share of votes agree.")


class KeepAll(Spec):
    """Everything that could be parsed: selection switched off."""

    strategy: Literal["all"] = "all"


class RandomShare(Spec):
    """A control: a random share of what could be parsed."""

    strategy: Literal["random"] = "random"
    share: float = Field(0.5, ge=0, le=1)


SelectionSpec = Annotated[
    Percentile | ClassPercentile | Threshold | Agreement | KeepAll | RandomShare, Field(discriminator="strategy")
]

# --- evaluation -------------------------------------------------------------------------------------------------------


class Evaluation(Spec):
    held_out_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the labeled file held out when no test file is given."
    )
    dev_fraction: float = Field(0.25, gt=0, lt=1, description="Share of the labels the early-stopped arm picks its epoch on.")
    baselines: bool = Field(True, description="Train and show labels-only twice, kNN vote and vanilla beside evolved.")
    with_neighbours: bool = Field(True, description="Also show every LM arm with the neighbours in the prompt.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals in the report.")
    on_leakage: Literal["error", "drop", "allow"] = Field(
        "error",
        description="Labeled rows that are in the test file too: refuse the job, drop them from the test rows, or only say so.",
    )


# --- the job ----------------------------------------------------------------------------------------------------------

PROFILES: Mapping[str, Mapping[str, Any]] = {
    # SemiEvol as the paper describes it: every default above.
    "paper": {},
    # What the authors' released code does at its head (methods.md 0): no demonstrations, collaborators that differ in their
    # seed only, a 30 % cut on the disputed rows alone, confidence of inference 0, and a second stage on pseudo-responses
    # alone at a hundredth of the learning rate.
    "repo_head": {
        "propagation": {
            "in_context": False,
            "confidence": "first",
            "collaborators": [{"name": f"run-{i}", "temperature": 1.0, "seed": i} for i in range(4)],
        },
        "warmup": {"format": "plain"},
        "resolve": {"resolver": "justify"},
        "selection": {"strategy": "percentile", "theta": 30.0, "scope": "disputed"},
        "evolve": {"data": "selected", "format": "plain", "learning_rate_factor": 0.01},
    },
}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, dict by dict; a union member of another kind replaces the whole block."""
    out = dict(under)
    for key, value in over.items():
        below = out.get(key)
        same_kind = (
            isinstance(below, Mapping) and isinstance(value, Mapping) and value.get("strategy") in (None, below.get("strategy"))
        )
        out[key] = _merged(below, value) if same_kind else value  # type: ignore[arg-type]
    return out


class JobSpec(Spec):
    profile: Literal["paper", "repo_head"] = Field("paper", description="Where defaults come from; anything given here wins.")
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Every random choice derives from (seed, stage, sample).")
    rounds: int = Field(1, ge=1, le=10)
    answer: AnswerSpec = AutoAnswer()
    system_prompt: str | None = Field(None, max_length=8192, description="A system turn for rows that bring none.")
    propagation: Propagation = Propagation()
    warmup: Warmup = Warmup()
    resolve: Resolve = Resolve()
    selection: SelectionSpec = Percentile()
    evolve: Evolve = Evolve()
    hyperparameters: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _profile(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        base = PROFILES.get(given["profile"], {}) if isinstance(given.get("profile"), str) else {}
        merged = _merged(base, given)
        for block, tag, usual in (("selection", "strategy", "percentile"), ("answer", "kind", "auto")):
            if isinstance(merged.get(block), Mapping) and tag not in merged[block]:
                merged[block] = {tag: usual, **merged[block]}  # {"theta": 30} means the usual strategy's theta
        return merged


def load_spec(given: Mapping[str, Any]) -> JobSpec:
    """The spec in a parsed YAML or JSON file. Raises SpecError with the first wrong field's dotted path."""
    try:
        return JobSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "spec"
        raise SpecError(f"{path}: {first['msg']}", param=path) from error

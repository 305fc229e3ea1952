"""How the stages of a round are trained."""

from typing import Literal

from pydantic import Field, model_validator

from worker.semisup.spec.base import Auto, Spec, check_bounds

MAX_EPOCHS = 1000
MAX_TOKEN_DROP = 0.5
Format = Literal["auto", "plain", "in_context", "mixed"]


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
        check_bounds("n_epochs", self.n_epochs, 1, MAX_EPOCHS)
        check_bounds("batch_size", self.batch_size, 1, 4096)
        for name, limit in (("learning_rate", 1.0), ("learning_rate_multiplier", 100.0)):
            value = getattr(self, name)
            if value != "auto" and not 0 < value <= limit:
                raise ValueError(f"{name} must be above 0 and at most {limit:g}, or 'auto'; got {value}")
        return self


class Warmup(Spec):
    """In-weight propagation: fine-tuning on the labeled set before anything is inferred."""

    format: Format = Field("auto", description="Prompts with (`in_context`) or without (`plain`) leave-one-out neighbours.")
    n_epochs: int | Auto = Field("auto", description="1 to 1000; overrides hyperparameters.n_epochs for this stage.")

    @model_validator(mode="after")
    def _bounds(self) -> "Warmup":
        check_bounds("n_epochs", self.n_epochs, 1, MAX_EPOCHS)
        return self


class Evolve(Spec):
    """The last fine-tuning of a round."""

    init: Literal["warmup", "base"] = Field("warmup", description="What the evolved adapter starts from.")
    relabel: bool | Auto = Field(
        "auto",
        description="Later rounds answer all unlabeled rows again, each by a training that left the row out; off: only "
        "those not selected yet. auto: with resolver pool.",
    )
    data: Literal["labeled+selected", "selected"] = "labeled+selected"
    format: Format = "auto"
    objective: Literal["auto", "sft", "weighted_sft"] = Field(
        "auto", description="`weighted_sft` scales a pseudo-response by exp(-mean_nll). auto: weighted with resolver pool."
    )
    token_drop: float | Auto = Field(
        "auto",
        description="0 to 0.5: share of the question's words left out of a training prompt, drawn anew each epoch, in the "
        "controls too. auto: 0.15 where answers are a closed set, else 0.",
    )
    n_epochs: int | Auto = Field("auto", description="1 to 1000; overrides hyperparameters.n_epochs for this stage.")
    learning_rate_factor: float = Field(1.0, gt=0, le=100, description="Times the warm-up's learning rate.")

    @model_validator(mode="after")
    def _bounds(self) -> "Evolve":
        check_bounds("n_epochs", self.n_epochs, 1, MAX_EPOCHS)
        check_bounds("token_drop", self.token_drop, 0, MAX_TOKEN_DROP)
        return self

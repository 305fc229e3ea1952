"""What "auto" means: a training recipe made concrete from the LM's size and the number of examples.

Small LMs need a higher learning rate and more passes than the paper's 8B setting; measured on the bundled LM (docs/LOG.md).
"""

import math
from dataclasses import dataclass
from typing import Literal

from worker.semisup.spec import Training

SMALL = 100_000_000  # parameters

# (trainable, is small) -> peak learning rate. LoRA 1e-4 is SemiEvol's; the small ones are ours.
LEARNING_RATE = {("lora", False): 1e-4, ("full", False): 1e-5, ("lora", True): 7e-4, ("full", True): 5e-4}
PAPER_EPOCHS = 2
SMALL_EXAMPLES = {"warmup": 720, "evolve": 2160}  # examples a small LM should see in the stage, over all epochs
# Bounds of that. After two passes over 385 labels of 77 intents no answer could be read, and 1,885 rows were left half learned.
SMALL_EPOCHS = (6, 24)
# Both for a warm-up whose votes stand alone, counted in prompts: "mixed" shows each example in two. Twelve passes, enough
# beside classifiers, left 73 to 80 % of its pseudo-labels on twelve intents wrong or unreadable (docs/LOG.md, 2026-11-28).
SMALL_ALONE, SMALL_ALONE_EPOCHS = 4320, (6, 96)
# Whether neighbours are shown, for each time that an example is seen in an epoch.
FORMS = {"plain": (False,), "in_context": (True,), "mixed": (False, True)}
SMALL_BATCH = 8
PAPER_BATCH = 8  # per-device 1 times 8 accumulation steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """A resolved training stage; `format` is how its prompts are laid out."""

    trainable: Literal["lora", "full"]
    n_epochs: int
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    format: Literal["plain", "in_context", "mixed"]

    def steps(self, examples: int) -> int:
        """Optimizer steps over all epochs; the last batch of an epoch may be short."""
        return self.n_epochs * math.ceil(examples / self.batch_size)


def resolve_recipe(
    training: Training,
    stage: Literal["warmup", "evolve"],
    *,
    examples: int,
    parameters: int,
    n_epochs: int | Literal["auto"] = "auto",
    format: str = "auto",
    factor: float = 1.0,
    alone: bool = False,
) -> Recipe:
    """The stage's recipe. `n_epochs` of the stage wins over the job's; `factor` scales the learning rate.

    `alone`: nothing but the LM votes, and its votes are not weighted by what the labels say of them.
    """
    small = parameters < SMALL
    auto_format = "mixed" if small and stage == "warmup" else "plain"
    format = auto_format if format == "auto" else format
    given = n_epochs if n_epochs != "auto" else training.n_epochs
    epochs = _auto_epochs(stage, examples, small, len(FORMS[format]) if alone else None) if given == "auto" else given
    rate = LEARNING_RATE[training.trainable, small] if training.learning_rate == "auto" else training.learning_rate
    multiplier = 1.0 if training.learning_rate_multiplier == "auto" else training.learning_rate_multiplier
    batch = (SMALL_BATCH if small else PAPER_BATCH) if training.batch_size == "auto" else training.batch_size
    return Recipe(
        trainable=training.trainable,
        n_epochs=epochs,
        batch_size=batch,
        micro_batch_size=min(batch, training.micro_batch_size),
        learning_rate=rate * multiplier * factor,
        warmup_ratio=training.warmup_ratio,
        weight_decay=training.weight_decay,
        format=format,  # type: ignore[arg-type]
    )


def _auto_epochs(stage: Literal["warmup", "evolve"], examples: int, small: bool, forms: int | None) -> int:
    """`forms`: prompts of an example in an epoch, where votes stand alone."""
    if not small:
        return PAPER_EPOCHS
    wanted, (low, high) = float(SMALL_EXAMPLES[stage]), SMALL_EPOCHS
    if forms and stage == "warmup":
        wanted, (low, high) = SMALL_ALONE / forms, SMALL_ALONE_EPOCHS
    return min(high, max(low, math.ceil(wanted / max(1, examples))))

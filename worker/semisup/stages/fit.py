"""Fine-tuning: our own short loop on accelerate, because data order, weights and bit-exact reruns are what we promise.

tests/semisup/test_fit.py holds it to transformers.Trainer: same batches, same seed, same losses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from transformers import get_cosine_schedule_with_warmup

from worker.semisup.data import Adapter
from worker.semisup.errors import NonFiniteLoss
from worker.semisup.lm import Lab, Lm, response_nll
from worker.semisup.objectives import OBJECTIVES
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import Training
from worker.semisup.stages.recipe import Recipe

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training example as token ids; the loss is on the response, the end token included."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    weight: float = 1.0


def fit(
    lab: Lab,
    start: Adapter | None,
    examples: Sequence[Tokens],
    recipe: Recipe,
    training: Training,
    *,
    seed: int,
    objective: str = "sft",
    steps: int | None = None,
    stop_after: int | None = None,
    after_epoch: Callable[[int, Lm], None] | None = None,
) -> Adapter:
    """Train from `start` (None: the base LM) on `examples` and save the result.

    `steps` replaces the recipe's own number (the step-matched control); `stop_after` ends after that many epochs of the
    recipe's schedule (early stopping). Raises NonFiniteLoss, naming the step.
    """
    per_epoch = math.ceil(len(examples) / recipe.batch_size)
    total = steps or recipe.n_epochs * per_epoch
    last = min(total, stop_after * per_epoch) if stop_after else total
    torch.manual_seed(derive_seed(seed, "fit"))  # LoRA's start and dropout
    accelerator = Accelerator(cpu=lab.device.type == "cpu", mixed_precision="bf16" if lab.bf16 else "no")
    with lab.training(start, recipe.trainable, training.lora) as network:
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = get_cosine_schedule_with_warmup(optimizer, round(recipe.warmup_ratio * total), total)
        network, optimizer = accelerator.prepare(network, optimizer)
        losses: list[float] = []
        tokens = 0
        for step in range(last):
            epoch, place = divmod(step, per_epoch)
            batch = [examples[i] for i in _order(len(examples), seed, epoch)[place * recipe.batch_size :][: recipe.batch_size]]
            loss = _step(accelerator, lab, network, batch, recipe, objective)
            if not math.isfinite(loss):
                raise NonFiniteLoss("training", step + 1)
            accelerator.clip_grad_norm_(trained, MAX_GRAD_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss)
            tokens += sum(len(example.response) for example in batch)
            lab.tick(step + 1, last, loss=loss, learning_rate=schedule.get_last_lr()[0])
            if after_epoch and place == per_epoch - 1:
                network.eval()
                with torch.inference_mode(), lab._autocast():
                    after_epoch(epoch + 1, Lm(lab, network))
                network.train()
        path, sha256 = lab.save(accelerator.unwrap_model(network), recipe.trainable)
    tail = losses[-max(1, len(losses) // 10) :]
    return Adapter(path, recipe.trainable, sha256, last, tokens, sum(tail) / len(tail))


def _step(
    accelerator: Accelerator, lab: Lab, network: object, batch: Sequence[Tokens], recipe: Recipe, objective: str
) -> float:
    """Accumulate the gradients of one batch, micro-batch by micro-batch; returns the loss before the update.

    Every micro-batch is divided by the whole batch's norm, so the cut into micro-batches changes memory, not the loss.
    """
    norm = sum(len(e.response) * (e.weight if objective == "weighted_sft" else 1.0) for e in batch)
    value = 0.0
    for begin in range(0, len(batch), recipe.micro_batch_size):
        part = batch[begin : begin + recipe.micro_batch_size]
        with accelerator.autocast():
            nll, mask = response_nll(network, lab, [e.prompt for e in part], [e.response for e in part])
        weight = torch.tensor([e.weight for e in part], device=lab.device)
        loss = OBJECTIVES[objective](nll, mask, weight)[0] / norm
        accelerator.backward(loss)
        value += float(loss.detach())
    return value


def _order(count: int, seed: int, epoch: int) -> list[int]:
    """The epoch's permutation, from its own seed: any step's batch can be found without replaying those before."""
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "order", epoch)))
    return generator.permutation(count).tolist()  # type: ignore[no-any-return]

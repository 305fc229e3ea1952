"""Fine-tuning: our own short loop on accelerate, because data order, weights and bit-exact reruns are what we promise.

tests/semisup/test_fit.py holds it to transformers.Trainer: same batches, same seed, same losses. A training that was
interrupted goes on from its newest checkpoint and ends with the same bytes (test_checkpoint.py).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import get_cosine_schedule_with_warmup

from worker.semisup.data import Adapter
from worker.semisup.errors import NonFiniteLoss, OutOfMemory, Stopped
from worker.semisup.exact import exactly, is_inexact
from worker.semisup.lm import Lab, Lm, response_nll
from worker.semisup.memory import free, is_out_of_memory
from worker.semisup.objectives import OBJECTIVES
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import Training
from worker.semisup.stages import checkpoint
from worker.semisup.stages.checkpoint import Journal
from worker.semisup.stages.recipe import Recipe

MAX_GRAD_NORM = 1.0
WINDOW = 8  # batches whose examples are sorted by length among themselves
LOOKED_AT = 25  # steps whose mean loss is compared with that of the best so many before
ROSE_TO, ROSE_BY = 2.0, 0.5  # times that, and nats per token on top: a training that has come apart, not a hard batch
MOST_HALVINGS = 3


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training example as token ids; the loss is on the response, the end token included."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    weight: float = 1.0

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.response)


PerEpoch = Callable[[int], Sequence[Tokens]]  # epoch, from 0 -> that epoch's examples
AfterEpoch = Callable[[int, Lm], Any]  # epochs done, the LM as it is -> what to remember of it, as JSON; None: nothing


class _NotFinite(Exception):
    """The loss or the gradients of a step (from 0) are no numbers; the step was not taken."""

    def __init__(self, step: int, skipped: Sequence[int]) -> None:
        super().__init__(step)
        self.step, self.skipped = step, tuple(skipped)


class _Diverged(Exception):
    """The loss has risen far above what it had come down to."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.step)
        self.journal = journal


def fit(
    lab: Lab,
    start: Adapter | None,
    examples: Sequence[Tokens] | PerEpoch,
    recipe: Recipe,
    training: Training,
    *,
    seed: int,
    objective: str = "sft",
    steps: int | None = None,
    stop_after: int | None = None,
    after_epoch: AfterEpoch | None = None,
    looked: list[Any] | None = None,
) -> Adapter:
    """Train from `start` (None: the base LM) on `examples` and save the result.

    `steps` replaces the recipe's own number (the step-matched control); `stop_after` ends after that many epochs of the
    recipe's schedule (early stopping). `examples` may differ from epoch to epoch, not in number. `looked` gets what
    `after_epoch` returned, also before an interruption.

    A step whose loss is not finite is left out once, from the last checkpoint on; the second time raises NonFiniteLoss,
    naming the step. A training that comes apart begins anew at half the learning rate, at most MOST_HALVINGS times.
    Raises OutOfMemory, and Stopped after a checkpoint when the run shall end.
    """
    at: PerEpoch = lru_cache(1)(examples) if callable(examples) else lambda epoch: examples
    plan = _Plan(at, len(at(0)), recipe, training, start, seed, objective, steps, stop_after)
    skip: tuple[int, ...] = ()
    slower = Journal(0, recipe.micro_batch_size)
    while True:
        try:
            return _train(lab, plan, after_epoch, looked if looked is not None else [], skip, slower)
        except _Diverged as problem:
            again, slower = False, _slower(lab, plan, problem.journal)
        except _NotFinite as problem:
            skip, again = (problem.step,), bool(problem.skipped) or plan.last == 1  # without its only step nothing is trained
        if again:  # outside of the except block, whose traceback holds the network
            raise NonFiniteLoss(lab.shelf.stage, skip[0] + 1, _last_good(lab, plan))


def diverged(losses: Sequence[float]) -> bool:
    """Whether the last LOOKED_AT steps' mean loss is far above the lowest of so many before; asked at every LOOKED_ATth."""
    blocks = len(losses) // LOOKED_AT
    if blocks < 2 or len(losses) % LOOKED_AT:
        return False
    means = np.asarray(losses).reshape(blocks, LOOKED_AT).mean(axis=1)
    return bool(means[-1] > ROSE_TO * means[:-1].min() + ROSE_BY)


@dataclass(frozen=True)
class _Plan:
    """Everything that is settled before the first step."""

    at: PerEpoch
    count: int
    recipe: Recipe
    training: Training
    start: Adapter | None
    seed: int
    objective: str
    steps: int | None
    stop_after: int | None

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.count / self.recipe.batch_size)

    @property
    def total(self) -> int:
        """Steps the schedule is laid out for."""
        return self.steps or self.recipe.n_epochs * self.per_epoch

    @property
    def last(self) -> int:
        """Steps that are taken."""
        return min(self.total, self.stop_after * self.per_epoch) if self.stop_after else self.total

    def batch(self, step: int) -> list[Tokens]:
        """Of any step, without replaying those before it."""
        epoch, place = divmod(step, self.per_epoch)
        return [self.at(epoch)[i] for i in self._batches(epoch)[place]]

    @cached_property
    def _batches(self) -> Callable[[int], list[list[int]]]:
        size, seed = self.recipe.batch_size, self.seed
        return lru_cache(1)(lambda epoch: batches_of(self.at(epoch), size, seed, epoch))

    @cached_property
    def identity(self) -> str:
        """What a checkpoint must agree in. Micro-batches are left out: fewer rows at once is the same training."""
        recipe = replace(self.recipe, micro_batch_size=0)
        start = self.start.sha256 if self.start else "base"
        steps = (self.count, self.total, self.last)
        rows = (np.asarray([*e.prompt, -1, *e.response]).tobytes() + repr(e.weight).encode() for e in self.at(0))
        return checkpoint.identity_of(rows, asdict(recipe), self.training, start, self.seed, self.objective, steps)


def _slower(lab: Lab, plan: _Plan, journal: Journal) -> Journal:
    """Where the training that came apart begins anew. A run that dies before the next checkpoint does all this again."""
    anew = Journal(0, journal.micro_batch_size, notes=journal.notes, halved=journal.halved + 1)
    rate = plan.recipe.learning_rate / 2**anew.halved
    loss = sum(journal.losses[-LOOKED_AT:]) / LOOKED_AT
    _tell(lab, anew, f"the loss rose to {loss:.2f} by step {journal.step}; begun anew at learning rate {rate:g}.", "diverged")
    for step, _ in list(lab.shelf.found()):
        lab.shelf.drop(step)
    return anew


def _train(
    lab: Lab, plan: _Plan, after_epoch: AfterEpoch | None, looked: list[Any], skip: Sequence[int], fresh: Journal
) -> Adapter:
    with _opened(lab, plan) as live:
        network, accelerator, optimizer, state = live.network, live.accelerator, live.optimizer, live.state
        journal = state.resume() or deepcopy(fresh)
        state.slow_down(journal.halved)
        for step in set(skip) - set(journal.skipped):
            journal.skipped.append(step)
            told = f"the loss of step {step + 1} was not finite; back to step {journal.step}, and that batch left out."
            _tell(lab, journal, told, "rolled_back")
        looked[:] = journal.looked
        for step in range(journal.step, plan.last):
            lab.shelf.alive("step")
            metrics: dict[str, float] = {}
            if step not in journal.skipped:
                batch = plan.batch(step)
                loss = _gradients(lab, live, batch, plan, journal)
                norm = accelerator.clip_grad_norm_(live.trained, MAX_GRAD_NORM)
                if not (math.isfinite(loss) and math.isfinite(float(norm))):
                    raise _NotFinite(step, journal.skipped)
                journal.losses.append(loss)
                journal.tokens += sum(len(example.response) for example in batch)
                metrics["loss"] = loss
                if journal.halved < MOST_HALVINGS and diverged(journal.losses):
                    raise _Diverged(journal)
            optimizer.step()
            state.schedule.step()
            optimizer.zero_grad()
            journal.step = step + 1
            if after_epoch and journal.step % plan.per_epoch == 0:
                network.eval()
                with torch.inference_mode(), lab._autocast():
                    seen = after_epoch(journal.step // plan.per_epoch, Lm(lab, network))
                network.train()
                if seen is not None:
                    journal.looked.append(seen)
                    looked.append(seen)
            stopping = lab.shelf.stopping() and journal.step < plan.last  # asked once: what stops has its checkpoint
            if journal.step < plan.last:
                state.save_if_due(journal, stopping=stopping)
            lab.tick(journal.step, plan.last, learning_rate=state.schedule.get_last_lr()[0], **metrics)
            if stopping:
                raise Stopped(f"Told to stop after step {journal.step} of {plan.last}.")
        path, sha256 = lab.save(accelerator.unwrap_model(network), plan.recipe.trainable)
    tail = journal.losses[-max(1, len(journal.losses) // 10) :]
    notes = tuple(journal.notes)
    return Adapter(path, plan.recipe.trainable, sha256, plan.last, journal.tokens, sum(tail) / len(tail), notes)


@dataclass
class _Live:
    """The network in training and what moves it. `optimizer` is accelerate's; `state` has the one beneath."""

    network: Any
    accelerator: Accelerator
    optimizer: Any
    trained: list[Any]
    state: checkpoint.Training


@contextmanager
def _opened(lab: Lab, plan: _Plan) -> Iterator[_Live]:
    """A fresh start of the plan's training: the same weights and random numbers every time."""
    recipe = plan.recipe
    torch.manual_seed(derive_seed(plan.seed, "fit"))  # LoRA's start and dropout
    accelerator = Accelerator(cpu=lab.device.type == "cpu", mixed_precision="bf16" if lab.bf16 else "no")
    with lab.training(plan.start, recipe.trainable, plan.training.lora) as network:
        trained = [p for p in network.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        schedule = get_cosine_schedule_with_warmup(adamw, round(recipe.warmup_ratio * plan.total), plan.total)
        network, optimizer = accelerator.prepare(network, adamw)
        bare = accelerator.unwrap_model(network)
        state = checkpoint.Training(lab.shelf, bare, adamw, schedule, plan.identity, lab.environment, lab.device)
        yield _Live(network, accelerator, optimizer, trained, state)


def _last_good(lab: Lab, plan: _Plan) -> Adapter | None:
    """The newest checkpoint of a training that failed, as an adapter; else what it started from."""
    with _opened(lab, plan) as live:
        journal = live.state.resume()
        if journal is None or not journal.losses:
            return plan.start
        path, sha256 = lab.save(live.accelerator.unwrap_model(live.network), plan.recipe.trainable)
    kind = plan.recipe.trainable
    return Adapter(path, kind, sha256, journal.step, journal.tokens, journal.losses[-1], tuple(journal.notes))


def _tell(lab: Lab, journal: Journal, what: str, code: str) -> None:
    """For the report, and as an event."""
    told = f"{lab.shelf.stage}: {what}"
    journal.notes.append(told)
    lab.shelf.note(told, code)


def _gradients(lab: Lab, live: _Live, batch: Sequence[Tokens], plan: _Plan, journal: Journal) -> float:
    """The gradients of one batch; returns the loss before the update.

    A micro-batch that does not fit is halved for good, down to one row: the same batch in more pieces, equal up to the
    rounding of float sums (and other dropout masks, where there is dropout). A network that has no deterministic kernels is
    trained without them from there on, and the report says that its bytes may differ.
    """
    while True:
        rows = min(journal.micro_batch_size, len(batch))
        drawn = torch.get_rng_state(), torch.cuda.get_rng_state(lab.device) if lab.device.type == "cuda" else None
        try:
            with exactly(lab.exact):
                return _step(live.accelerator, lab, live.network, batch, rows, plan.objective)
        except Exception as problem:
            inexact = lab.exact and is_inexact(problem)
            if not (inexact or is_out_of_memory(problem)):
                raise
            if rows == 1 and not inexact:
                raise OutOfMemory("a micro-batch of one row", lab.shelf.stage) from None
        live.optimizer.zero_grad()
        free()
        torch.set_rng_state(drawn[0])
        if drawn[1] is not None:
            torch.cuda.set_rng_state(drawn[1], lab.device)
        if inexact:
            lab.exact = False
            told = "this network has no deterministic kernels on this device; another run may end with other bytes."
            _tell(lab, journal, told, "not_bit_reproducible")
            continue
        journal.micro_batch_size = rows // 2
        told = f"a micro-batch of {rows} did not fit into memory at step {journal.step + 1}; {rows // 2} from here on."
        _tell(lab, journal, told, "batch_halved")


def _step(accelerator: Accelerator, lab: Lab, network: object, batch: Sequence[Tokens], rows: int, objective: str) -> float:
    """Accumulate the gradients of one batch, `rows` at a time; returns the loss before the update.

    Every micro-batch is divided by the whole batch's norm, so the cut into micro-batches changes memory, not the loss.
    """
    norm = sum(len(e.response) * (e.weight if objective == "weighted_sft" else 1.0) for e in batch)
    value = 0.0
    for begin in range(0, len(batch), rows):
        part = batch[begin : begin + rows]
        with accelerator.autocast():
            nll, mask = response_nll(network, lab, [e.prompt for e in part], [e.response for e in part])
        weight = torch.tensor([e.weight for e in part], device=lab.device)
        loss = OBJECTIVES[objective](nll, mask, weight)[0] / norm
        accelerator.backward(loss)
        value += float(loss.detach())
    return value


def batches_of(examples: Sequence[Tokens], size: int, seed: int, epoch: int) -> list[list[int]]:
    """An epoch's batches, as places in `examples`: shuffled, and of like length, since padding costs what tokens cost.

    The shuffled examples are sorted by length within windows of WINDOW batches, cut into batches, and the batches
    shuffled; the last one may be short. With random batches two of five tokens are padding on banking77, and half a
    warm-up's time goes into them (docs/LOG.md). transformers' Trainer calls the like `group_by_length`.
    """
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, "order", epoch)))
    shuffled = generator.permutation(len(examples)).tolist()
    width = WINDOW * size
    windows = [shuffled[start : start + width] for start in range(0, len(shuffled), width)]
    order = [i for window in windows for i in sorted(window, key=lambda i: examples[i].length)]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [batches[i] for i in generator.permutation(len(batches))]

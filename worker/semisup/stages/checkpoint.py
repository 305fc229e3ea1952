"""A training between two steps, as files: safetensors and JSON, every file's sha256 in a manifest that is written last.

Weights (the trained part), AdamW's moments, the schedule, the random generators of torch, and the journal: what a training
knows of itself. Data order needs no file, it is a function of the step (fit.py). Nothing is ever unpickled.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.semisup.keep import file_sha256
from worker.semisup.shelf import Shelf

MANIFEST, STATE = "manifest.json", "state.json"
WEIGHTS, MOMENTS, RANDOM = "weights.safetensors", "optimizer.safetensors", "random.safetensors"
SCHEDULE = ("last_epoch", "_step_count", "_last_lr")


@dataclass
class Journal:
    """`step` counts the steps that are done; `looked` is what after_epoch returned; `skipped` are steps left out (from 0).

    `halved`: how often the learning rate was, the training beginning anew each time.
    """

    step: int
    micro_batch_size: int
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    looked: list[Any] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    halved: int = 0


class Unusable(Exception):
    """Why a checkpoint cannot be gone on from, in half a sentence."""


@dataclass
class Training:
    """The live parts of a training, and where its checkpoints go. `identity` tells it from every other training."""

    shelf: Shelf
    network: Any
    optimizer: torch.optim.Optimizer
    schedule: Any
    identity: str
    environment: Mapping[str, Any]
    device: torch.device
    cost: float = 0.0  # seconds the last checkpoint took
    last_step: int = 0
    last_time: float = field(default_factory=time.monotonic)

    def save_if_due(self, journal: Journal, *, stopping: bool) -> None:
        """A checkpoint when it is time for one, or when the run shall stop and the last one is older than this step."""
        seconds, steps = time.monotonic() - self.last_time, journal.step - self.last_step
        if steps and (self.shelf.every.due(seconds, steps, self.cost) or stopping):
            self.save(journal)

    def save(self, journal: Journal) -> None:
        started = time.monotonic()
        folder = self.shelf.room(journal.step)
        write(folder, self, journal)
        self.shelf.put(journal.step, folder)
        self._mark(journal.step)
        self.cost = self.last_time - started

    def slow_down(self, halved: int) -> None:
        """The schedule's learning rates, divided by two so many times."""
        self.schedule.base_lrs = [rate / 2**halved for rate in self.schedule.base_lrs]

    def resume(self) -> Journal | None:
        """Loads the newest checkpoint that can be used; None: from the start. The unusable ones before it are dropped."""
        for step, folder in self.shelf.found():
            try:
                journal, environment = read(folder, self)
            except Unusable as problem:
                self.shelf.drop(step, str(problem))
                continue
            if environment != dict(self.environment):
                changed = sorted(
                    key for key in {*environment, *self.environment} if environment.get(key) != self.environment.get(key)
                )
                told = (
                    f"{self.shelf.stage} goes on with another {', '.join(changed)}: not the same bits as if it had not stopped."
                )
                self.shelf.note(told, "not_bit_reproducible")
            self._mark(journal.step)
            return journal
        return None

    def _mark(self, step: int) -> None:
        self.last_step, self.last_time = step, time.monotonic()


def write(folder: Path, training: Training, journal: Journal) -> None:
    """All files of a checkpoint, the manifest last; each is on the disk before the manifest is."""
    mark = {"run": training.shelf.tag, "stage": training.shelf.stage, "step": str(journal.step)}  # no two files are the same
    tensors = {WEIGHTS: _weights(training.network), MOMENTS: _moments(training.optimizer), RANDOM: _random(training.device)}
    for name, content in tensors.items():
        save_file({key: _at_rest(value) for key, value in content.items()}, folder / name, metadata={**mark, "file": name})
    state = {
        "mark": mark,
        "identity": training.identity,
        "environment": dict(training.environment),
        "schedule": {key: getattr(training.schedule, key) for key in SCHEDULE},
        "journal": asdict(journal),
    }
    (folder / STATE).write_text(json.dumps(state, allow_nan=False))
    for name in (*tensors, STATE):
        _sync(folder / name)
    entries = {
        name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in (*tensors, STATE)
    }
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps({"type": "Checkpoint", "files": entries}))
    _sync(partial)
    partial.replace(folder / MANIFEST)
    _sync(folder)


def read(folder: Path, training: Training) -> tuple[Journal, dict[str, Any]]:
    """Puts a checkpoint into the live parts; (journal, environment it was made in). All is verified before any is touched."""
    state = verified(folder)
    if state["identity"] != training.identity:
        raise Unusable("it belongs to another training")
    try:
        weights, moments, random = (load_file(folder / name) for name in (WEIGHTS, MOMENTS, RANDOM))
    except (SafetensorError, OSError) as problem:
        raise Unusable(f"a file cannot be read ({type(problem).__name__})") from None
    own = _weights(training.network)
    if {name: tuple(t.shape) for name, t in own.items()} != {name: tuple(t.shape) for name, t in weights.items()}:
        raise Unusable("its weights are not those of this network")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    _load_moments(training.optimizer, moments)
    vars(training.schedule).update(state["schedule"])
    for group, rate in zip(training.optimizer.param_groups, state["schedule"]["_last_lr"], strict=True):
        group["lr"] = rate
    torch.set_rng_state(random["cpu"])
    if training.device.type == "cuda" and "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], training.device)
    return Journal(**state["journal"]), state["environment"]


def verified(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose files all are what the manifest says. Raises Unusable."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        for name, entry in files.items():
            if file_sha256(folder / name) != entry["sha256"]:
                raise Unusable(f"{name} has changed since it was written")
        state: dict[str, Any] = json.loads((folder / STATE).read_bytes())
    except OSError as problem:
        raise Unusable(f"{Path(problem.filename or '').name or 'a file'} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unusable("its manifest cannot be read") from None
    return state


def identity_of(rows: Iterable[bytes], *parts: object) -> str:
    """A digest of what makes a training this training: data, spec, seed, start."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for row in rows:
        digest.update(row)
    return digest.hexdigest()


def _weights(network: Any) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by `parameter index.key`: step, exp_avg, exp_avg_sq."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, kept in state.items() for key, value in kept.items()}


def _load_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _random(device: torch.device) -> dict[str, Tensor]:
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _at_rest(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

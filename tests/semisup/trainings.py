"""A training of 30 steps that can be killed, and what it has in common with one that was left alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.semisup.test_fit import EXAMPLES, recipe
from worker.semisup.data import Adapter
from worker.semisup.shelf import NEVER, DirectoryShelf, Every
from worker.semisup.spec import LoraSpec, Training
from worker.semisup.stages.fit import fit

STEPS = 30


class Killed(Exception):
    pass


@dataclass
class Run:
    """One training of 30 steps on a shelf of its own, and what was said on the way."""

    lab: object
    folder: Path
    trainable: str = "lora"
    every: Every = NEVER
    changes: dict = field(default_factory=dict)
    dropout: float = 0.1
    notes: list[tuple[str, str]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    watch: Callable[[int], None] = lambda step: None

    def kill_after(self, count: int) -> Adapter:
        """Killed at its `count`th step, those of an attempt that was given up among them."""
        return self(kill_when=lambda: len(self.steps) == count)

    def __call__(self, kill_at: int = 0, kill_when: Callable[[], bool] = lambda: False, **more) -> Adapter:
        shelf = DirectoryShelf(self.folder, lambda: "warmup", self.every)
        shelf.note = lambda message, code: self.notes.append((code, message))
        self.lab.shelf = shelf

        def tick(step, total, **metrics):
            self.steps.append(step)
            self.watch(step)
            if step == kill_at or kill_when():
                raise Killed

        self.lab.tick = tick
        training = Training(trainable=self.trainable, lora=LoraSpec(r=4, alpha=8, dropout=self.dropout))
        cut = {"trainable": self.trainable, "n_epochs": 10, "micro_batch_size": 2, "learning_rate": 1e-2, **self.changes}
        return fit(self.lab, None, more.pop("examples", EXAMPLES), recipe(**cut), training, seed=1, **more)


def same(quiet: Adapter) -> object:
    class Same:
        def __eq__(self, other):
            return (other.sha256, other.steps, other.trained_tokens, other.final_loss, other.notes) == (
                quiet.sha256, quiet.steps, quiet.trained_tokens, quiet.final_loss, quiet.notes,
            )  # fmt: skip

    return Same()

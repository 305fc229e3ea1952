"""What a stage has of its run beside its output: a shelf for checkpoints, and a line to whoever watches over it. No torch.

A checkpoint is a folder of files whose manifest was written last (stages/checkpoint.py). The newest two are kept until the
stage's output is stored. `DirectoryShelf` serves the command line, `worker.keep` has the service's.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

KEPT = 2
SHARE = 20  # a checkpoint that took s seconds is not followed by another for SHARE * s: it costs 5 % of the time at most

# What a run is doing now; how long it may be silent depends on it (models/settings.py).
Doing = Literal["loading", "step", "batch"]


@dataclass(frozen=True, slots=True)
class Every:
    """When checkpoints are due: after so many seconds, and after so many steps; 0 means not by this measure."""

    seconds: float = 60.0
    steps: int = 0

    def due(self, seconds: float, steps: int, cost: float) -> bool:
        """`seconds` and `steps` since the last one, which took `cost` seconds."""
        by_time = 0 < self.seconds <= seconds and seconds >= SHARE * cost
        return by_time or 0 < self.steps <= steps


NEVER = Every(0.0, 0)


class Shelf(Protocol):
    @property
    def every(self) -> Every: ...

    @property
    def stage(self) -> str:
        """The full name of the stage that runs."""
        ...

    @property
    def tag(self) -> str:
        """Written into every file of a checkpoint, so that no two runs' files have the same bytes."""
        ...

    def room(self, step: int) -> Path:
        """An empty folder for the checkpoint after `step` steps."""
        ...

    def put(self, step: int, folder: Path) -> None:
        """What was written into `room(step)` is the newest checkpoint from now on; all but the newest two go."""
        ...

    def found(self) -> Iterator[tuple[int, Path]]:
        """(step, folder) of the stage's checkpoints, newest first; whether they can be read is for the reader to see."""
        ...

    def drop(self, step: int, why: str | None = None) -> None:
        """A checkpoint that nobody shall go on from: one that cannot be used, says `why`; one that is not wanted, nothing."""
        ...

    def note(self, message: str, code: str) -> None:
        """Something worth an event of the job."""
        ...

    def alive(self, doing: Doing) -> None:
        """Said before everything that takes long."""
        ...

    def stopping(self) -> bool:
        """Whether the run shall end at the next step or chunk, leaving a checkpoint."""
        ...


class NoShelf:
    """For runs that are not resumed: no checkpoints, and nobody watches."""

    every, stage, tag = NEVER, "training", ""

    def room(self, step: int) -> Path:
        raise AssertionError("a run without checkpoints has none due")

    def put(self, step: int, folder: Path) -> None: ...

    def found(self) -> Iterator[tuple[int, Path]]:
        return iter(())

    def drop(self, step: int, why: str | None = None) -> None: ...

    def note(self, message: str, code: str) -> None: ...

    def alive(self, doing: Doing) -> None: ...

    def stopping(self) -> bool:
        return False


class DirectoryShelf:
    """A folder per checkpoint, `<root>/<stage>/step-00000012`, that appears by one rename."""

    tag = ""

    def __init__(self, root: Path, stage: Callable[[], str], every: Every) -> None:
        self._root, self._stage, self.every = root, stage, every
        self.stop = False  # set by a signal handler

    @property
    def stage(self) -> str:
        return self._stage()

    def room(self, step: int) -> Path:
        folder = self._place(step).with_suffix(".partial")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def put(self, step: int, folder: Path) -> None:
        place = self._place(step)
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
        for old in self._all()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def found(self) -> Iterator[tuple[int, Path]]:
        for folder in self._all():
            yield int(folder.name.removeprefix("step-")), folder

    def drop(self, step: int, why: str | None = None) -> None:
        shutil.rmtree(self._place(step), ignore_errors=True)
        if why is not None:
            self.note(unusable(self.stage, step, why), "artifact_corrupt")

    def clear(self, stage: str) -> None:
        """The stage's output is stored: nobody goes on from inside it any more."""
        shutil.rmtree(self._root / stage, ignore_errors=True)

    def note(self, message: str, code: str) -> None:
        sys.stderr.write(f"\n{message}\n")

    def alive(self, doing: Doing) -> None: ...

    def stopping(self) -> bool:
        return self.stop

    def _place(self, step: int) -> Path:
        return self._root / self.stage / f"step-{step:08d}"

    def _all(self) -> list[Path]:
        folders = (self._root / self.stage).glob("step-????????")
        return sorted(folders, reverse=True)


def unusable(stage: str, step: int, why: str) -> str:
    return f"The checkpoint of {stage} after step {step} is not used: {why}."

"""PipeKeep: the service's keep. It asks the worker for everything, over two pipes, in JSON lines (docs/how-it-runs.md).

The runner that uses it has no database, no blob store and no key; it reads and writes files in its scratch folder.
"""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from models.crash import crash_point
from worker.semisup.data import Adapter
from worker.semisup.errors import Stopped
from worker.semisup.keep import Manifest, chunked, decode, encode
from worker.semisup.shelf import NEVER, Doing, Every, unusable

T = TypeVar("T")
Item = TypeVar("Item")

Level = Literal["info", "warn"]

TICK_SECONDS = 0.2  # more often nobody looks
MADE = ("adapter-*", "artefacts-*")  # folders of its own that a stage is stored from


class NothingToDo(Exception):
    """For a helper: no finished stage is missing that it could take chunks of. It goes away."""


class Pipe:
    """The two pipes to the worker, and how to speak on them. Raises Stopped when the worker hung up."""

    def __init__(self, reads: TextIO, writes: TextIO) -> None:
        self._reads, self._writes = reads, writes
        self.asked = 0

    def tell(self, **message: Any) -> None:
        line = json.dumps(message, allow_nan=False) + "\n"
        try:
            self._writes.write(line)
            self._writes.flush()
        except OSError:
            raise Stopped("The worker is gone.") from None

    def ask(self, what: str, **message: Any) -> dict[str, Any]:
        self.asked += 1
        self.tell(ask=what, **message)
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next thing the worker says; unasked, it says one: the order."""
        line = self._reads.readline()
        if not line:
            raise Stopped("The worker is gone.")
        answer: dict[str, Any] = json.loads(line)
        return answer


class PipeShelf:
    """Checkpoints go to the worker, which stores them where any machine finds them: a blob each file, and a row.

    `stop` is set by the runner's signal handler. `adapter` is the newest adapter that this run made or read.
    """

    def __init__(self, pipe: Pipe, scratch: Path, every: Every, tag: str) -> None:
        self._pipe, self._scratch, self.every, self.tag = pipe, scratch / "checkpoints", every, tag
        self.stage, self.stop = "", False
        self.adapter: Adapter | None = None
        self._said: tuple[Doing, int] = ("loading", 0)
        self._said_at = 0.0

    def room(self, step: int) -> Path:
        folder = self._scratch / f"step-{step:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def put(self, step: int, folder: Path) -> None:
        crash_point("checkpoint.written")
        manifest = json.loads((folder / "manifest.json").read_bytes())
        self._pipe.ask("save", stage=self.stage, step=step, path=str(folder), manifest=manifest)
        shutil.rmtree(folder, ignore_errors=True)
        crash_point("checkpoint.put")

    def found(self) -> Iterator[tuple[int, Path]]:
        for step in self._pipe.ask("saved", stage=self.stage)["steps"]:
            found = self._pipe.ask("load", stage=self.stage, step=step)
            if found["path"] is not None:
                try:
                    yield step, Path(found["path"])
                finally:  # read or passed over, it lies in the store
                    shutil.rmtree(found["path"], ignore_errors=True)

    def drop(self, step: int, why: str | None = None) -> None:
        self._pipe.ask("drop", stage=self.stage, step=step)
        if why is not None:
            self.note(unusable(self.stage, step, why), "artifact_corrupt")

    def note(self, message: str, code: str) -> None:
        self._pipe.tell(tell="event", level="warn", message=message, data={"stage": self.stage, "code": code})

    def alive(self, doing: Doing) -> None:
        now = doing, self._pipe.asked  # whoever asks is taken to be loading from then on (desk.py)
        if now != self._said or time.monotonic() - self._said_at >= TICK_SECONDS:
            self._said, self._said_at = now, time.monotonic()
            self._pipe.tell(tell="alive", doing=doing)

    def stopping(self) -> bool:
        return self.stop


class PipeKeep:
    """`assist`: makes no stage and opens none, only works off chunks of the one that is open. Raises NothingToDo.

    Raises Stopped between stages and between chunks once the runner was told to stop; a chunk is finished first.
    """

    def __init__(
        self, pipe: Pipe, scratch: Path, *, chunk_size: int, assist: bool = False, every: Every = NEVER, tag: str = ""
    ) -> None:
        self._pipe, self.scratch, self.chunk_size, self._assist = pipe, scratch, chunk_size, assist
        self._out = scratch / "out"
        self._prefix = ""
        self._now: dict[str, Any] = {"ticked": 0.0, "taken": {}}  # shared by all that `within` makes
        self.shelf = PipeShelf(pipe, scratch, every, tag)

    def __call__(self, name: str, make: Callable[[], T]) -> T:
        stage = self._begin(name)
        found = self._pipe.ask("lookup", stage=stage)
        if found["manifest"] is not None:
            if found.get("taken"):
                self._now["taken"][stage] = None
            return self._known(decode(found["manifest"], Path(found["path"])))  # type: ignore[no-any-return]
        if self._assist:
            raise NothingToDo
        started = time.monotonic()
        folder, manifest = self._written(stage, make())
        crash_point("stage.made")
        self._pipe.ask("commit", stage=stage, path=str(folder), manifest=manifest, seconds=time.monotonic() - started)
        self._clear()
        return self._known(decode(manifest, folder))  # type: ignore[no-any-return]

    def map(self, name: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]) -> tuple[T, ...]:
        stage, parts = self._begin(name), chunked(items, self.chunk_size)
        if not self._assist:
            opened = self._pipe.ask("open", stage=stage, chunks=len(parts), items=len(items))
            if "taken" in opened:
                self._now["taken"][stage] = (opened["taken"], len(parts))
        while True:
            self._stop_here(stage)
            answer = self._pipe.ask("claim", stage=stage)
            if "chunk" in answer:
                self._work_off(stage, answer["chunk"], parts, work)
            elif answer.get("done"):
                found = self._pipe.ask("lookup_chunks", stage=stage)["chunks"]
                if len(found) == len(parts):
                    return tuple(output for chunk in found for output in decode(chunk["manifest"], Path(chunk["path"])))
                if self._assist:
                    raise NothingToDo
                # One could not be read, and is open again.
            elif self._assist:
                raise NothingToDo
            else:
                time.sleep(answer["wait"])

    def within(self, prefix: str) -> "PipeKeep":
        inner = copy(self)
        inner._prefix = f"{self._prefix}{prefix}/"
        return inner

    def tick(self, step: int, total: int, **metrics: float) -> None:
        moment = time.monotonic()
        if step >= total or moment - self._now["ticked"] >= TICK_SECONDS:
            self._now["ticked"] = moment
            metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
            self._pipe.tell(tell="progress", stage=self.shelf.stage, step=step, total=total, metrics=metrics)

    def seconds(self) -> dict[str, float]:
        found: dict[str, float] = self._pipe.ask("seconds")["seconds"]
        return found

    def taken_over(self) -> str:
        """How much of what this run has come by so far another job computed, in words."""
        parts = {stage: part for stage, part in self._now["taken"].items() if part and part[0] < part[1]}
        whole = len(self._now["taken"]) - len(parts)
        pieces = [f"{done} of {chunks} chunks of {stage}" for stage, (done, chunks) in sorted(parts.items())]
        return " and ".join([f"{whole} stage{'' if whole == 1 else 's'}", *pieces])

    def halved(self) -> list[str]:
        """What did not fit into memory at once in this job so far, also on other machines and before an interruption."""
        found: list[str] = self._pipe.ask("halved")["notes"]
        return found

    def note(self, message: str, level: Level = "warn") -> None:
        """Something for the job's history."""
        self._pipe.tell(tell="event", level=level, message=message)

    def _begin(self, name: str) -> str:
        stage = self.shelf.stage = self._prefix + name
        self._stop_here(stage)
        return stage

    def _stop_here(self, stage: str) -> None:
        if self.shelf.stop:
            raise Stopped(f"Told to stop in {stage}.")

    def _known(self, value: Any) -> Any:
        if isinstance(value, Adapter):
            self.shelf.adapter = value
        return value

    def _work_off(
        self, stage: str, number: int, parts: Sequence[Sequence[Item]], work: Callable[[Sequence[Item]], Sequence[T]]
    ) -> None:
        started = time.monotonic()
        folder, manifest = self._written(f"{stage}/{number:05d}", list(work(parts[number])))
        took = time.monotonic() - started
        crash_point("chunk.made")
        self._pipe.ask("commit_chunk", stage=stage, chunk=number, path=str(folder), manifest=manifest, seconds=took)

    def _clear(self) -> None:
        """The stage is stored: the folders it was written from hold the same weights once more."""
        temporary = Path(tempfile.gettempdir())
        if temporary.is_relative_to(self.scratch):  # nobody else's, as a runner's is (process.py)
            for made in (path for pattern in MADE for path in temporary.glob(pattern)):
                shutil.rmtree(made, ignore_errors=True)

    def _written(self, stage: str, value: object) -> tuple[Path, Manifest]:
        folder = self._out / stage
        shutil.rmtree(folder, ignore_errors=True)
        return folder, encode(value, folder)


def open_pipe() -> Pipe:
    """Takes stdin and stdout for the pipe. Whatever else this process prints goes to stderr from now on."""
    writes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    reads = os.fdopen(os.dup(0), encoding="utf-8")
    return Pipe(reads, writes)

"""PipeKeep: the service's keep. It asks the worker for everything, over two pipes, in JSON lines (docs/how-it-runs.md).

The runner that uses it has no database, no blob store and no key; it reads and writes files in its scratch folder.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TextIO, TypeVar

from worker.semisup.errors import Stopped
from worker.semisup.keep import Manifest, chunked, decode, encode

T = TypeVar("T")
Item = TypeVar("Item")

TICK_SECONDS = 0.2  # more often nobody looks


class NothingToDo(Exception):
    """For a helper: no finished stage is missing that it could take chunks of. It goes away."""


class Pipe:
    """The two pipes to the worker, and how to speak on them. Raises Stopped when the worker hung up."""

    def __init__(self, reads: TextIO, writes: TextIO) -> None:
        self._reads, self._writes = reads, writes

    def tell(self, **message: Any) -> None:
        line = json.dumps(message, allow_nan=False) + "\n"
        try:
            self._writes.write(line)
            self._writes.flush()
        except OSError:
            raise Stopped("The worker is gone.") from None

    def ask(self, what: str, **message: Any) -> dict[str, Any]:
        self.tell(ask=what, **message)
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next thing the worker says; unasked, it says one: the order."""
        line = self._reads.readline()
        if not line:
            raise Stopped("The worker is gone.")
        answer: dict[str, Any] = json.loads(line)
        return answer


class PipeKeep:
    """`assist`: makes no stage and opens none, only works off chunks of the one that is open. Raises NothingToDo."""

    def __init__(self, pipe: Pipe, scratch: Path, *, chunk_size: int, assist: bool = False) -> None:
        self._pipe, self._out, self.chunk_size, self._assist = pipe, scratch / "out", chunk_size, assist
        self._prefix = ""
        self._now: dict[str, Any] = {"stage": "", "ticked": 0.0}  # shared by all that `within` makes

    def __call__(self, name: str, make: Callable[[], T]) -> T:
        stage = self._begin(name)
        found = self._pipe.ask("lookup", stage=stage)
        if found["manifest"] is not None:
            return decode(found["manifest"], Path(found["path"]))  # type: ignore[no-any-return]
        if self._assist:
            raise NothingToDo
        started = time.monotonic()
        folder, manifest = self._written(stage, make())
        self._pipe.ask("commit", stage=stage, path=str(folder), manifest=manifest, seconds=time.monotonic() - started)
        return decode(manifest, folder)  # type: ignore[no-any-return]

    def map(self, name: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]) -> tuple[T, ...]:
        stage, parts = self._begin(name), chunked(items, self.chunk_size)
        if not self._assist:
            self._pipe.ask("open", stage=stage, chunks=len(parts), items=len(items))
        while True:
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
            self._pipe.tell(tell="progress", stage=self._now["stage"], step=step, total=total, metrics=metrics)

    def seconds(self) -> dict[str, float]:
        found: dict[str, float] = self._pipe.ask("seconds")["seconds"]
        return found

    def note(self, message: str) -> None:
        """A warning for the job's history."""
        self._pipe.tell(tell="event", level="warn", message=message)

    def _begin(self, name: str) -> str:
        stage: str = self._prefix + name
        self._now["stage"] = stage
        return stage

    def _work_off(
        self, stage: str, number: int, parts: Sequence[Sequence[Item]], work: Callable[[Sequence[Item]], Sequence[T]]
    ) -> None:
        started = time.monotonic()
        folder, manifest = self._written(f"{stage}/{number:05d}", list(work(parts[number])))
        took = time.monotonic() - started
        self._pipe.ask("commit_chunk", stage=stage, chunk=number, path=str(folder), manifest=manifest, seconds=took)

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

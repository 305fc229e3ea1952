"""The whole resume story. `keep(name, make)` makes a stage's output once; the second time it is read back.

Nothing else in the algorithm knows about resume, progress, cancel or heartbeats. Payload first, manifest last: a manifest's
existence means the output is complete. `MemoryKeep` serves tests, `DirectoryKeep` the command line, `worker.keep` the service.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import ConfigDict, TypeAdapter

from worker.semisup.data import STORED, Adapter, Folder
from worker.semisup.errors import KeepMismatch, Stopped
from worker.semisup.shelf import DirectoryShelf, Every, NoShelf, Shelf

T = TypeVar("T")
Item = TypeVar("Item")


class Keep(Protocol):
    def __call__(self, name: str, make: Callable[[], T]) -> T:
        """The stored output of stage `name`, or `make()` stored under it. Raises Stopped when the run shall end."""
        ...

    def map(self, name: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]) -> tuple[T, ...]:
        """`work` over `items` in chunks of `chunk_size`, each chunk stored on its own (and open to other machines).

        `work` must give one output per item, in order, and depend on nothing but its chunk and finished stages.
        """
        ...

    def within(self, prefix: str) -> "Keep":
        """The same keep, with `prefix/` before every stage name."""
        ...

    def tick(self, step: int, total: int, **metrics: float) -> None:
        """Progress inside the current stage (a training step, a batch). Raises Stopped when the run shall end."""
        ...

    def seconds(self) -> dict[str, float]:
        """Wall seconds each stage took when it was made (not when it was read back), by full stage name."""
        ...

    @property
    def shelf(self) -> Shelf:
        """Where the stage that runs has its checkpoints; they go when its output is stored."""
        ...


# --- values as files --------------------------------------------------------------------------------------------------


Manifest = dict[str, Any]  # {"type": name in STORED, "files": {relative path: {"sha256", "bytes"}}}

# A folder's own files are stored beside its JSON, under this name.
FOLDER = "files"
PAYLOAD = "payload.json"


def encode(value: object, folder: Path) -> Manifest:
    """Write `value` (one of STORED, or a list of them) into `folder` and return its manifest. Folders are copied in."""
    folder.mkdir(parents=True, exist_ok=True)
    many = isinstance(value, list | tuple)
    kind = (type(value[0]).__name__ if value else "Empty") if many else type(value).__name__  # type: ignore[index]
    if kind not in STORED:
        raise TypeError(f"{kind} cannot be stored; the kinds are {sorted(STORED)}")
    if isinstance(value, Adapter | Folder):
        shutil.copytree(value.path, folder / FOLDER, dirs_exist_ok=True)
        value = replace(value, path="")
    (folder / PAYLOAD).write_bytes(canonical_json(value))
    files = {str(p.relative_to(folder)): _entry(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    return {"type": kind, "many": many, "files": files}


def decode(manifest: Manifest, folder: Path) -> Any:
    """The value that `encode` wrote into `folder`. Raises KeepMismatch when a file is missing or not what it was."""
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _entry(path) != entry:
            raise KeepMismatch(f"{name} is missing or has changed since it was stored", code="artifact_corrupt")
    raw = (folder / PAYLOAD).read_bytes()
    if manifest["type"] == "Empty":
        return []
    kind = STORED[manifest["type"]]
    value: Any = TypeAdapter(list[kind] if manifest["many"] else kind).validate_json(raw)  # type: ignore[valid-type]
    return replace(value, path=str(folder / FOLDER)) if isinstance(value, Adapter | Folder) else value


def canonical_json(value: object) -> bytes:
    """One byte form per value: sorted keys, no spaces, shortest float that reads back equal."""
    plain = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants")).dump_python(value, mode="json", fallback=_plain)
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chunked(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


# --- two keeps --------------------------------------------------------------------------------------------------------


class MemoryKeep:
    """Everything in a dict: tests, and a look at what a run would keep."""

    def __init__(self, chunk_size: int = 64) -> None:
        self.chunk_size = chunk_size
        self.stored: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}
        self._prefix = ""
        self.shelf: Shelf = NoShelf()

    def __call__(self, name: str, make: Callable[[], T]) -> T:
        key = self._prefix + name
        if key not in self.stored:
            started = time.monotonic()
            self.stored[key] = make()
            self._seconds[key] = time.monotonic() - started
        return self.stored[key]  # type: ignore[no-any-return]

    def map(self, name: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]) -> tuple[T, ...]:
        parts = [
            self(f"{name}/{number:05d}", lambda part=part: list(work(part)))  # type: ignore[misc]
            for number, part in enumerate(chunked(items, self.chunk_size))
        ]
        return tuple(output for part in parts for output in part)

    def within(self, prefix: str) -> "MemoryKeep":
        inner = MemoryKeep(self.chunk_size)
        inner.stored, inner._seconds, inner._prefix = self.stored, self._seconds, f"{self._prefix}{prefix}/"
        return inner

    def tick(self, step: int, total: int, **metrics: float) -> None:
        pass

    def seconds(self) -> dict[str, float]:
        return _by_stage(self._seconds)


Watch = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, total, metrics


class DirectoryKeep:
    """A folder per stage, `manifest.json` written last: a run that is killed anywhere goes on where it was."""

    def __init__(
        self,
        root: Path,
        run: Mapping[str, Any],
        *,
        chunk_size: int = 64,
        watch: Watch | None = None,
        every: Every | None = None,
    ) -> None:
        """`run` says what makes this run this run (spec, data hashes); another run's folder raises KeepMismatch.

        `every`: when checkpoints are made inside trainings, in <root>/checkpoints; default: once a minute.
        """
        self.root, self.chunk_size, self.watch = root, chunk_size, watch
        self._prefix = ""
        self._now = {"stage": ""}  # shared by all that `within` makes
        self.shelf = DirectoryShelf(root / "checkpoints", lambda: self._now["stage"], every or Every())
        mine, theirs = canonical_json(dict(run)), root / "run.json"
        if theirs.is_file() and theirs.read_bytes() != mine:
            raise KeepMismatch(f"{root} holds another run (its spec or data differ); choose another output folder")
        root.mkdir(parents=True, exist_ok=True)
        theirs.write_bytes(mine)

    def __call__(self, name: str, make: Callable[[], T]) -> T:
        stage = self._now["stage"] = self._prefix + name
        folder = self.root / "stages" / stage
        stored = folder / "manifest.json"
        if not stored.is_file():
            if self.shelf.stopping():
                raise Stopped(f"Told to stop before {stage}.")
            started = time.monotonic()
            value = make()
            shutil.rmtree(folder, ignore_errors=True)
            manifest = encode(value, folder) | {"seconds": time.monotonic() - started}
            partial = folder / "manifest.json.partial"
            partial.write_text(json.dumps(manifest, indent=1, sort_keys=True))
            partial.replace(stored)
            self.shelf.clear(stage)
        return decode(json.loads(stored.read_text()), folder)  # type: ignore[no-any-return]

    def map(self, name: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]) -> tuple[T, ...]:
        chunks = chunked(items, self.chunk_size)
        outputs: list[T] = []
        for number, part in enumerate(chunks):
            outputs.extend(self(f"{name}/{number:05d}", lambda part=part: list(work(part))))  # type: ignore[misc]
            if self.watch:
                self.watch(self._prefix + name, number + 1, len(chunks), {})
        return tuple(outputs)

    def within(self, prefix: str) -> "DirectoryKeep":
        inner = copy(self)
        inner._prefix = f"{self._prefix}{prefix}/"
        return inner

    def tick(self, step: int, total: int, **metrics: float) -> None:
        if self.watch:
            self.watch(self._now["stage"], step, total, metrics)

    def seconds(self) -> dict[str, float]:
        stages = self.root / "stages"
        found = {str(p.parent.relative_to(stages)): json.loads(p.read_text())["seconds"] for p in stages.rglob("manifest.json")}
        return _by_stage(found)


def _by_stage(seconds: Mapping[str, float]) -> dict[str, float]:
    """Chunks (`propagate/00003`) added up under their stage, stages in the order of their names."""
    total: dict[str, float] = {}
    for name in sorted(seconds):
        head, _, tail = name.rpartition("/")
        stage = head if tail.isdigit() and len(tail) == 5 else name
        total[stage] = total.get(stage, 0.0) + seconds[name]
    return total

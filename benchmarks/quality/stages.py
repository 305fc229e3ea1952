"""Stage outputs shared between arms: what two arms do alike up to some stage is done once, by whichever process comes first."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.quality.locks import held
from worker.semisup.data import Adapter
from worker.semisup.keep import chunked, decode, encode
from worker.semisup.lm import Lab

T = TypeVar("T")
Item = TypeVar("Item")
Watch = Callable[[str, int, int, Mapping[str, float]], None]
MANIFEST = "manifest.json"


class SharedKeep:
    """A keep whose stages lie where `place(stage name)` says, not under one run. Safe for several processes at once."""

    def __init__(self, root: Path, place: Callable[[str], str], *, chunk_size: int, watch: Watch | None = None) -> None:
        self.root, self.place, self.chunk_size, self.watch = root, place, chunk_size, watch
        self._prefix = ""
        self._current = [""]  # shared with inner keeps, for tick
        self._seconds: dict[str, float] = {}

    def __call__(self, name: str, make: Callable[[], T]) -> T:
        stage = self._prefix + name
        head, chunk = _chunk(stage)
        folder = self.root / self.place(head) / head / chunk
        self._current[0] = head
        if not (folder / MANIFEST).is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with held(folder.with_name(f"{folder.name}.lock"), wait=True):
                if not (folder / MANIFEST).is_file():  # else another process has made it meanwhile
                    self._make(folder, make)
        manifest = json.loads((folder / MANIFEST).read_text())
        self._seconds[head] = self._seconds.get(head, 0.0) + manifest["seconds"]
        return decode(manifest, folder)  # type: ignore[no-any-return]

    def _make(self, folder: Path, make: Callable[[], T]) -> None:
        started = time.monotonic()
        value = make()
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
        manifest = encode(value, partial) | {"seconds": time.monotonic() - started}
        (partial / MANIFEST).write_text(json.dumps(manifest, sort_keys=True))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        if isinstance(value, Adapter) and Path(value.path).is_relative_to(tempfile.gettempdir()):
            shutil.rmtree(value.path, ignore_errors=True)  # its copy is what counts from here on

    def map(self, name: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]) -> tuple[T, ...]:
        outputs: list[T] = []
        chunks = chunked(items, self.chunk_size)
        for number, part in enumerate(chunks):
            outputs.extend(self(f"{name}/{number:05d}", lambda part=part: list(work(part))))  # type: ignore[misc]
            self.tick(number + 1, len(chunks))
        return tuple(outputs)

    def within(self, prefix: str) -> "SharedKeep":
        inner = copy(self)
        inner._prefix = f"{self._prefix}{prefix}/"
        return inner

    def tick(self, step: int, total: int, **metrics: float) -> None:
        if self.watch:
            self.watch(self._current[0], step, total, metrics)

    def seconds(self) -> dict[str, float]:
        """Of every stage that was asked for, as it took when it was made, be it now or for an earlier arm."""
        return dict(sorted(self._seconds.items()))


def _chunk(stage: str) -> tuple[str, str]:
    head, _, tail = stage.rpartition("/")
    return (head, tail) if tail.isdigit() and len(tail) == 5 else (stage, "whole")


class CachedLab(Lab):
    """A lab that remembers embeddings: a task's texts are embedded once for all its arms and processes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}

    def remember(self, texts: Sequence[str], path: Path) -> None:
        """Embed `texts` (or read what `path` holds of them) so that `embed` need not."""
        texts = sorted(set(texts))
        rows: Any = None
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                rows = stored["rows"] if stored["texts"].tolist() == texts else None
        if rows is None:
            rows = super().embed(texts)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{os.getpid()}-{path.name}")
            np.savez(partial, rows=rows, texts=np.array(texts))
            partial.replace(path)
        self._known = dict(zip(texts, rows, strict=True))

    def embed(self, texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = self._known | dict(zip(new, super().embed(new), strict=True)) if new else self._known
        return np.stack([found[text] for text in texts]) if texts else np.zeros((0, 384), np.float32)

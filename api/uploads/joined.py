"""Blobs one after the other, as one file that is read once."""

import io
from collections.abc import Sequence
from typing import BinaryIO

from models.blobs import Blobs


class Joined(io.RawIOBase):
    """`names` are sha256 of blobs in `store`, in order. Reading raises BlobMissing for one that is gone."""

    def __init__(self, store: Blobs, names: Sequence[str]) -> None:
        self._store, self._left = store, list(reversed(names))
        self._open: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._open is not None or self._left:
            if self._open is None:
                self._open = self._store.open(self._left.pop())
            piece = self._open.read(len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
            self._open.close()
            self._open = None
        return 0

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
        super().close()

"""Bytes under their sha256, on a folder or an object store (fsspec). Written once, never changed, verified when read back.

In a folder a blob appears by one rename after its bytes are on disk: a reader sees all of it or nothing. On an object
store the upload itself is atomic; the hash is needed first, so the bytes pass through a local spool file.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from models.crash import crash_point
from models.settings import settings

PIECE_BYTES = 1 << 20
ROOMS = "rooms"
_SHA256, _ROOM = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9A-Za-z_-]{1,64}")
FRESH_SECONDS = 3600.0  # an object that is younger needs no new date


class BlobError(Exception):
    """A blob that cannot be read as what its name promises. Whoever needs it makes it again, or says so."""

    def __init__(self, sha256: str, message: str) -> None:
        self.sha256 = sha256
        super().__init__(message)


class BlobMissing(BlobError):
    def __init__(self, sha256: str) -> None:
        super().__init__(sha256, f"blob {sha256} is not in the store; restore it from a backup, or upload the file again")


class BlobCorrupt(BlobError):
    def __init__(self, sha256: str, found: str) -> None:
        super().__init__(sha256, f"blob {sha256} holds bytes whose sha256 is {found}; it was taken out of the store")


@dataclass(frozen=True, slots=True)
class Stored:
    sha256: str
    bytes: int


class Blobs:
    """A content-addressed store. `spool` is a local folder for uploads to a store that is not one."""

    def __init__(self, url: str, *, spool: Path) -> None:
        self._url = url
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = isinstance(self._fs, LocalFileSystem)
        self._spool = Path(self._root, "incoming") if self._local else spool

    def put(self, source: BinaryIO) -> Stored:
        """Stores everything `source` has left. Constant memory."""
        self._spool.mkdir(parents=True, exist_ok=True)
        with _temporary(self._spool) as (spooled, path):
            sha256, size = _copy(source, spooled)
            spooled.flush()
            os.fsync(spooled.fileno())
            crash_point("blob.spooled")
            self._publish(path, sha256, size)
        crash_point("blob.published")
        return Stored(sha256, size)

    def put_path(self, path: Path) -> Stored:
        with path.open("rb") as source:
            return self.put(source)

    def open(self, sha256: str) -> BinaryIO:
        """The bytes as they lie there, for streaming to a client; `fetch` is the one that verifies. Raises BlobMissing."""
        try:
            return cast(BinaryIO, self._fs.open(self._key(sha256), "rb"))
        except FileNotFoundError:
            raise BlobMissing(sha256) from None

    def fetch(self, sha256: str, to: Path) -> None:
        """Writes the blob to `to` (whole or not at all). Raises BlobMissing; BlobCorrupt after removing the bad blob."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self.open(sha256) as source, _temporary(to.parent) as (target, path):
            found, _ = _copy(source, target)
            target.close()
            if found != sha256:
                self.discard(sha256)
                raise BlobCorrupt(sha256, found)
            path.replace(to)

    def exists(self, sha256: str) -> bool:
        return bool(self._fs.exists(self._key(sha256)))

    def size(self, sha256: str) -> int:
        """Bytes. Raises BlobMissing."""
        try:
            return int(self._fs.size(self._key(sha256)))
        except FileNotFoundError:
            raise BlobMissing(sha256) from None

    def discard(self, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._key(sha256))

    # --- rooms: blobs that belong together and go together

    def room(self, name: str) -> "Blobs":
        """A store inside this one, for blobs that nobody else may name: only it can be cleared while others store the same
        bytes.
        """
        if not _ROOM.fullmatch(name):
            raise ValueError(f"a room's name is letters, digits, '_' and '-'; got {name[:80]!r}")
        return Blobs(f"{self._url.rstrip('/')}/{ROOMS}/{name}", spool=self._spool)

    def rooms(self) -> list[str]:
        """Names of rooms that something was ever put into and that were not cleared since."""
        try:
            return sorted(path.rstrip("/").rpartition("/")[2] for path in self._fs.ls(f"{self._base}/{ROOMS}", detail=False))
        except FileNotFoundError:
            return []

    def clear(self) -> None:
        """Removes everything of this store. What is put in at this moment may stay behind: call it again."""
        away: tuple[type[OSError], ...] = (OSError,) if self._local else (FileNotFoundError,)
        with contextlib.suppress(*away):
            self._fs.rm(self._base, recursive=True)

    # --- what nobody names any more

    def older(self, than: float, *, since: float = 0.0) -> list[str]:
        """Names of blobs, without those of rooms, that were last put after `since` and before `than` (epoch seconds)."""
        found = []
        for prefix in (f"{number:02x}" for number in range(256)):
            try:
                entries = self._fs.ls(f"{self._base}/{prefix}", detail=True, refresh=True)
            except FileNotFoundError:
                continue
            names = {entry["name"].rpartition("/")[2]: _put_at(entry) for entry in entries}
            found += [name for name, at in names.items() if _SHA256.fullmatch(name) and since < at < than]
        return found

    def discard_older(self, sha256: str, than: float) -> bool:
        """Discards a blob unless it was put again meanwhile, also at this very moment. False: it stays, or was gone."""
        key = self._key(sha256)
        try:
            if not self._local:
                gone = _put_at(self._fs.info(key, refresh=True)) < than
                if gone:
                    self._fs.rm_file(key)
                return gone
            self._spool.mkdir(parents=True, exist_ok=True)
            aside = self._spool / f".aside-{sha256}"
            Path(key).replace(aside)  # from here on it is ours to look at: who puts it now makes a new one
            gone = aside.stat().st_mtime < than
            if gone:
                aside.unlink()
            else:
                aside.replace(key)
        except FileNotFoundError:
            return False
        return gone

    def clear_spool(self, than: float) -> int:
        """Removes what processes that died while storing left behind before `than`: how many files."""
        left = [path for path in self._spool.glob(".part-*") if path.is_file() and path.stat().st_mtime < than]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    @property
    def _base(self) -> str:
        return str(self._root).rstrip("/")

    def _key(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"a blob's name is 64 lower-case hex digits; got {sha256[:80]!r}")
        return f"{self._base}/{sha256[:2]}/{sha256}"

    def _publish(self, path: Path, sha256: str, size: int) -> None:
        key = self._key(sha256)
        if self._local:
            folder = Path(key).parent
            folder.mkdir(parents=True, exist_ok=True)
            path.replace(key)
            _sync_folder(folder)
        elif not self._lies_fresh(key, size):
            self._fs.makedirs(key.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(path), key)

    def _lies_fresh(self, key: str, size: int) -> bool:
        """Whether an object need not be put again: an old one may be about to be collected as nobody's."""
        try:
            found = self._fs.info(key, refresh=True)
        except FileNotFoundError:
            return False
        return bool(found["size"] == size and _put_at(found) > time.time() - FRESH_SECONDS)


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while piece := source.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
        target.write(piece)
    return digest.hexdigest(), size


def _put_at(entry: dict[str, Any]) -> float:
    """Epoch seconds at which a file or an object was last written, whichever store says so."""
    at = next((entry[name] for name in ("mtime", "LastModified", "last_modified", "updated", "created") if name in entry), None)
    if at is None:
        return time.time()  # a store that does not say loses nothing
    return float(at.timestamp()) if isinstance(at, datetime) else float(at)


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in `folder`; gone at the end unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=".part-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@lru_cache
def blobs() -> Blobs:
    return Blobs(settings().store, spool=settings().data_dir.resolve() / "spool")

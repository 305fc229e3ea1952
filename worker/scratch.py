"""A runner's folder on the worker's disk. Everything in it can be lost: what counts is in the blob store.

The worker holds a lock on it for as long as it uses it; the kernel drops the lock of a worker that was killed.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.queries.leases import Lease
from models.settings import settings

LOCK = "lock"
NEW_SECONDS = 60


def scratch_root() -> Path:
    return settings().data_dir.resolve() / "scratch"


@contextmanager
def scratch_folder(lease: Lease) -> Iterator[Path]:
    """scratch/<job>/t<token>: a token is never used twice, so neither is a folder."""
    folder = scratch_root() / lease.job_id / f"t{lease.token}"
    folder.mkdir(parents=True)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _remove(folder)


def remove_abandoned() -> list[Path]:
    """Folders whose worker is dead; those removed. New ones are left alone: their worker may be about to lock them."""
    removed = []
    for path in scratch_root().glob(f"*/t*/{LOCK}"):
        with suppress(FileNotFoundError, BlockingIOError), path.open() as lock:
            if time.time() - path.stat().st_mtime > NEW_SECONDS:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path.parent)
                removed.append(path.parent)
    return removed


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another attempt or a helper has a folder there
        folder.parent.rmdir()

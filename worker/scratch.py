"""A runner's folder on the worker's disk. Everything in it can be lost: what counts is in the blob store.

The worker holds a lock on it for as long as it uses it; the kernel drops the lock of a worker that was killed.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.queries.leases import Lease
from models.settings import settings

LOCK = "lock"


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
    """Folders whose worker is dead; those removed. One that is just being made may go too, and is made again by a retry."""
    removed = []
    for lock_path in scratch_root().glob(f"*/t*/{LOCK}"):
        with lock_path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(lock_path.parent)
            removed.append(lock_path.parent)
    return removed


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.rmdir()
    except OSError:  # another attempt or a helper has a folder there
        return

"""One process at a time: lock files that a killed process cannot leave behind for good."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Busy(Exception):
    """Another live process holds the lock."""


@contextmanager
def held(path: Path, *, wait: bool = False, poll_seconds: float = 1.0) -> Iterator[None]:
    """Hold the lock file `path`: made exclusively, its owner inside. The lock of a process that is gone is taken over.

    Raises Busy where a live process holds it, or waits for that one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while not (_take(path) or (_bury(path) and _take(path))):
        if not wait:
            raise Busy(str(path))
        time.sleep(poll_seconds)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def busy(path: Path) -> bool:
    """Whether a live process other than this one holds the lock."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    return _alive(found) and found != owner(os.getpid())


def owner(pid: int) -> dict[str, object]:
    """What says which process this is: its number alone would be used again."""
    return {"host": socket.gethostname(), "pid": pid, "born": _born(pid)}


def _take(path: Path) -> bool:
    mine = path.with_name(f"{path.name}.{os.getpid()}")
    mine.write_text(json.dumps(owner(os.getpid())))
    try:
        os.link(mine, path)  # exclusive as O_EXCL is, and the file is never seen empty
    except FileExistsError:
        return False
    finally:
        mine.unlink(missing_ok=True)
    return True


def _bury(path: Path) -> bool:
    """Whether the lock is free now: its owner was gone and it was taken away, or it went by itself."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return True
    if _alive(json.loads(text)):
        return False
    aside = path.with_name(f"{path.name}.{os.getpid()}.dead")
    try:
        path.rename(aside)  # of several that saw it dead, one moves it
    except FileNotFoundError:
        return True
    if aside.read_text() != text:  # somebody was quicker, and this is that one's live lock
        os.link(aside, path)
    aside.unlink()
    return True


def _alive(found: dict[str, object]) -> bool:
    """A process on another host cannot be looked at, so it counts as alive."""
    return found["host"] != socket.gethostname() or found == owner(int(str(found["pid"])))


def _born(pid: int) -> str | None:
    """When the process started; None: there is no such process. Where the system does not tell, `?`."""
    if Path("/proc/self/stat").is_file():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (FileNotFoundError, ProcessLookupError):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "?"

"""Named places where a test may have this process killed: SEMIFT_CRASH_AT=name[:n][@file] kills it there the n-th time.

With a file it happens once in all: whoever dies leaves the file behind, and nobody dies where it lies. Unset (outside of
tests), a crash point is a comparison with None.
"""

import os
import signal
import threading
from pathlib import Path
from typing import NamedTuple

from models.settings import crash_at

# Every crash point there is, by who passes it; tests/worker/test_crash_points.py kills at each.
POINTS = {
    "api": ("submit.before_commit", "submit.after_commit"),
    "upload": ("upload.part_stored", "upload.joined", "upload.before_commit", "upload.after_commit"),
    "worker": (
        *("claim.before_commit", "claim.after_commit", "order.written", "runner.started"),
        *("beat.before", "beat.after", "ending.before_commit", "ending.after_commit"),
        *("blob.spooled", "blob.published", "stage.stored", "stage.committed", "stage.opened"),
        *("chunk.claimed", "chunk.stored", "chunk.committed", "save.stored", "save.committed", "save.cleared"),
        *("outbox.taken", "outbox.rung", "sweep.before_commit", "sweep.after_commit"),
    ),
    "runner": ("order.read", "stage.made", "chunk.made", "checkpoint.written", "checkpoint.put", "job.done"),
}


class Wanted(NamedTuple):
    name: str
    times: int
    once: Path | None


def _wanted(text: str) -> Wanted | None:
    """Raises ValueError for a point that nobody passes: a test of it would test nothing."""
    if not text:
        return None
    where, _, once = text.partition("@")
    name, _, count = where.partition(":")
    if not any(name in points for points in POINTS.values()):
        raise ValueError(f"SEMIFT_CRASH_AT names no crash point: {name!r}")
    return Wanted(name, int(count or 1), Path(once) if once else None)


_WANTED = _wanted(crash_at())
_passed = 0
_counting = threading.Lock()


def crash_point(name: str) -> None:
    """Kills this process, as if the machine had gone, when a test wants it to die here."""
    global _passed
    if _WANTED is None or _WANTED.name != name:
        return
    with _counting:
        _passed += 1
        if _passed != _WANTED.times or (_WANTED.once is not None and _WANTED.once.exists()):
            return
        if _WANTED.once is not None:
            _WANTED.once.touch()
        os.kill(os.getpid(), signal.SIGKILL)

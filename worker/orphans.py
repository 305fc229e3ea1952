"""What nobody names any more goes: uploads in parts that were never completed, and blobs of which no row was ever written.

A process that dies between storing bytes and writing their row leaves such a blob; so does the deletion of a file. Storing
comes before the row, so a blob is let alone until it is a day old, and storing the same bytes again makes it young again. One
process at a time looks, for all of them.
"""

import logging
import time

from models.blobs import FRESH_SECONDS, blobs
from models.db import transaction
from models.queries import chores, orphans
from models.queries.uploads import expire_uploads, pending_uploads
from models.settings import settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
GRACE_SECONDS = 600.0  # for a completion that began in time


def collect() -> None:
    """Whatever is due of it."""
    if _ours("uploads", LOOK_SECONDS):
        clear_uploads()
    age = settings().orphan_seconds
    if age and _ours("orphans", age / 4):
        discard_orphans(max(age, 2 * FRESH_SECONDS))


def clear_uploads() -> list[str]:
    """Ends uploads whose time is over, and removes the rooms of those that have ended, however: their ids."""
    with transaction() as session:
        expire_uploads(session, GRACE_SECONDS)
    rooms = blobs().rooms()
    with transaction(read_only=True) as session:
        pending = pending_uploads(session, rooms)
    ended = [room for room in rooms if room not in pending]
    for room in ended:
        blobs().room(room).clear()
    return ended


def discard_orphans(age: float) -> int:
    """Discards blobs that are older than `age` seconds and named by no row: how many.

    The store is listed first and the rows are read afterwards, so what is named in between counts; what is stored again in
    between is young, and stays.
    """
    before = time.time() - age
    with transaction(read_only=True) as session:
        since = orphans.beginning(session)
    blobs().clear_spool(before)
    old = blobs().older(before, since=since)
    if not old:
        return 0
    with transaction(read_only=True) as session:
        wanted = orphans.named(session, old)
    gone = sum(blobs().discard_older(sha256, before) for sha256 in old if sha256 not in wanted)
    if gone:
        log.info("discarded %d blobs that no row names", gone)
    return gone


def _ours(name: str, seconds: float) -> bool:
    with transaction(read_only=True) as session:  # hardly ever: a look must not be a write
        if not chores.is_due(session, name, seconds):
            return False
    with transaction() as session:
        return chores.begin(session, name, seconds)

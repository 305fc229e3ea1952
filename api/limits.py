"""Quotas of tenants and the request rate of keys. Refusals say what is used, of how much, and when it will be otherwise."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from anyio import CancelScope
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.errors import LimitReached
from models.db import transaction
from models.queries import keys, quotas, uploads
from models.queries.quotas import WINDOW_SECONDS, Window
from models.settings import settings

log = logging.getLogger("semift.api")

# A process takes requests from a key's minute by the slice, so that not every request is a write. What is taken is used by
# nobody else: over all processes together the limit holds exactly, and a process that goes away loses at most a slice.
SLICES = 20
ASK_AGAIN_SECONDS = 60  # of quotas nobody knows when there is room again
UPLOAD_AGAIN_SECONDS = 2
RENEW_SECONDS = uploads.SLOT_SECONDS / 4
NO_RETRY = {"retry-after": str(ASK_AGAIN_SECONDS), "x-should-retry": "false"}


class _Slice(NamedTuple):
    left: int
    until: float  # of the monotonic clock


class Meter:
    """One for each app; used on the event loop alone."""

    def __init__(self) -> None:
        self._slices: dict[str, _Slice] = {}

    async def count(self, tenant_id: str, key_id: str) -> None:
        """Raises LimitReached."""
        limit = settings().requests_per_minute
        if not limit:
            return
        held = self._slices.get(key_id)
        if held is None or held.until <= time.monotonic():
            held = None
        if held is None or held.left < 1:
            if held is not None and held.left < 0:
                raise _too_fast(limit, held.until - time.monotonic())
            began = time.monotonic()
            taken = await run_in_threadpool(_take, tenant_id, key_id, limit)
            others = self._slices.get(key_id)  # what another request has taken meanwhile
            spare = max(others.left, 0) if others is not None and others.until > time.monotonic() else 0
            held = _Slice(taken.granted + spare, began + taken.left)
            if not held.left:
                self._keep(key_id, _Slice(-1, held.until))  # nobody asks the database again before the minute is over
                raise _too_fast(limit, taken.left)
        self._keep(key_id, held._replace(left=held.left - 1))

    def _keep(self, key_id: str, held: _Slice) -> None:
        if len(self._slices) > 1000:
            self._slices = {key: slice_ for key, slice_ in self._slices.items() if slice_.until > time.monotonic()}
        self._slices[key_id] = held


def _take(tenant_id: str, key_id: str, limit: int) -> Window:
    with transaction(tenant=tenant_id) as session:
        return quotas.take_requests(session, key_id, max(1, limit // SLICES), limit)


def _too_fast(limit: int, left: float) -> LimitReached:
    seconds = max(1, math.ceil(left))
    return LimitReached(
        f"This key has made its {limit} requests of {WINDOW_SECONDS:.0f} seconds; the next can be made in {seconds} s.",
        code="rate_limited",
        hint="Wait for Retry-After seconds, and poll less often.",
        headers={
            "retry-after": str(seconds),
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": f"{seconds}s",
        },
    )


@asynccontextmanager
async def one_upload(tenant_id: str, key_id: str) -> AsyncIterator[None]:
    """Counts as one of the key's uploads while the block runs, over all processes together. Raises LimitReached.

    However the block ends, a client that hangs up included, its slot is free. A process that dies frees it within two minutes.
    """
    limit = settings().uploads_at_once
    if not limit:
        yield
        return
    slot = await run_in_threadpool(_take_slot, tenant_id, key_id, limit)
    if slot is None:
        raise LimitReached(
            f"This key has {limit} uploads under way, which is its limit.",
            code="too_many_uploads",
            hint="Wait until one of them has ended; the operator sets the limit.",
            headers={"retry-after": str(UPLOAD_AGAIN_SECONDS)},
        )
    renewing = asyncio.create_task(_keep_slot(tenant_id, slot))
    try:
        yield
    finally:
        renewing.cancel()
        with CancelScope(shield=True):
            await _settled(_free_slot, tenant_id, slot)


def _take_slot(tenant_id: str, key_id: str, limit: int) -> int | None:
    with transaction(tenant=tenant_id) as session:
        return uploads.take_slot(session, tenant_id, key_id, limit)


def _renew_slot(tenant_id: str, slot: int) -> None:
    with transaction(tenant=tenant_id) as session:
        uploads.renew_slot(session, tenant_id, slot)


def _free_slot(tenant_id: str, slot: int) -> None:
    with transaction(tenant=tenant_id) as session:
        uploads.free_slot(session, tenant_id, slot)


async def _keep_slot(tenant_id: str, slot: int) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        await _settled(_renew_slot, tenant_id, slot)


async def _settled(work: Callable[[str, int], None], tenant_id: str, slot: int) -> None:
    """A database that is away costs a slot for two minutes, and no upload."""
    try:
        await run_in_threadpool(work, tenant_id, slot)
    except (OperationalError, PoolTimeout) as problem:
        log.warning("the slot of an upload was not renewed or freed: %s", type(problem).__name__)


def check_jobs(session: Session, tenant_id: str) -> None:
    """In the transaction that makes a job. Raises LimitReached."""
    limit = settings().tenant_open_jobs
    if limit:
        quotas.hold_tenant(session, tenant_id)
        used = quotas.open_jobs(session, tenant_id)
        if used >= limit:
            raise _used_up(f"{used} of {limit} jobs that have not ended", "when one of them ends", "Wait, or cancel one.")


def check_bytes(session: Session, tenant_id: str, more: int, *, hold: bool = False) -> None:
    """Whether `more` bytes may be stored beside files and what uploads in parts have announced; `hold` in the transaction
    that writes the row. Raises LimitReached.
    """
    limit = settings().tenant_stored_bytes
    if limit:
        if hold:
            quotas.hold_tenant(session, tenant_id)
        used = quotas.stored_bytes(session, tenant_id) + uploads.announced_bytes(session, tenant_id)
        if used + more > limit:
            said = f"{used} of {limit} stored bytes, and this file has {more}"
            raise _used_up(said, "when files are deleted or expire", "Delete files that are no longer needed.")


def check_keys(session: Session, tenant_id: str) -> None:
    """In the transaction that makes a key: a key has a rate of its own, so their number is limited. Raises LimitReached."""
    limit = settings().tenant_keys
    quotas.hold_tenant(session, tenant_id)
    used = keys.count_usable(session, tenant_id)
    if used >= limit:
        raise _used_up(f"{used} of {limit} keys", "when one is revoked or expires", "Revoke one that is not used.")


def _used_up(said: str, reset: str, hint: str) -> LimitReached:
    hint = f"{hint} The operator sets the quota."
    return LimitReached(
        f"The quota is used up: this tenant has {said}. There is room {reset}.",
        code="quota_exceeded",
        hint=hint,
        headers=NO_RETRY,
    )

"""A request that is sent twice makes one thing, and both are answered alike.

Two ways to know it again. `Idempotency-Key`, for 24 hours: same key and same body is the same request, another body is 422.
`x-stainless-retry-count`, which OpenAI's clients send with every request instead: a count above 0 is the request with the
same body of the last ten minutes; a count of 0 is always new. A request that was refused leaves nothing: its key is free.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from api.deps import Caller
from api.errors import BadRequest, Conflict, KeyReused
from models.db import transaction
from models.queries import idempotency
from models.queries.health import answers
from models.queries.idempotency import KEEP_SECONDS

Made = TypeVar("Made", bound=BaseModel)

RETRIES_SECONDS = 600.0
WAIT = {"retry-after": "1", "retry-after-ms": "250"}
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


class _Answered(Exception):
    """Ends our transaction: the row another request made is the answer."""

    def __init__(self, row: RowMapping) -> None:
        self.row = row


@dataclass(frozen=True)
class Ticket:
    """`take` first thing in the transaction that makes something, `answer` last."""

    once: idempotency.Once | None  # None: nobody could know this request again

    def take(self, session: Session) -> None:
        if self.once is not None and (row := idempotency.take(session, self.once)) is not None:
            raise _Answered(row)

    def answer(self, session: Session, made: BaseModel) -> None:
        if self.once is not None:
            idempotency.answer(session, self.once, made.model_dump_json())


@dataclass(frozen=True)
class Once:
    """What a request says of its repetitions."""

    key: str | None
    retry: int | None  # 0 for the first attempt

    def run(self, caller: Caller, operation: str, given: Mapping[str, Any], make: Callable[[Ticket], Made]) -> Made | Response:
        """What `make` makes, or the answer to the same request before. Raises Conflict while that is still being made."""
        if self.key is None and self.retry is None:
            return make(Ticket(None))
        asked = json.dumps([operation, dict(given)], sort_keys=True, ensure_ascii=True, default=str)
        fingerprint = hashlib.sha256(asked.encode()).hexdigest()
        tenant_id = caller.tenant_id
        key = f"key:{self.key}" if self.key is not None else f"retry:{caller.key_id}:{fingerprint}"
        with _in_flight((tenant_id, key), alone=self.key is not None or bool(self.retry)):
            with transaction(tenant=tenant_id, read_only=True) as session:
                once = self._once(tenant_id, key, fingerprint, answers(session))
                row = idempotency.find(session, once)
            if row is None:
                try:
                    return make(Ticket(once))
                except _Answered as answered:
                    row = answered.row
            return _again(row, fingerprint)

    def _once(self, tenant_id: str, key: str, fingerprint: str, now: float) -> idempotency.Once:
        if self.key is not None:
            return idempotency.Once(tenant_id, key, fingerprint, False, now - KEEP_SECONDS, False)
        # A first attempt can only be overtaken by its own retry, on another server; equal bodies sent on purpose stay two.
        since = now - RETRIES_SECONDS if self.retry else now
        return idempotency.Once(tenant_id, key, fingerprint, bool(self.retry), since, not self.retry)


def once(request: Request) -> Once:
    """Raises BadRequest for a key that cannot be one."""
    keys = request.headers.getlist("idempotency-key")
    if keys and (len(keys) > 1 or not _KEY.fullmatch(keys[0])):
        found = f"{len(keys)} headers" if len(keys) > 1 else f"{len(keys[0])} characters, {keys[0][:40]!a}"
        raise BadRequest(
            f"Idempotency-Key must be one header of 1 to 255 visible ASCII characters; got {found}.",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
            hint="Send a fresh UUID for every new request, and the same one when you send it again.",
        )
    count = request.headers.get("x-stainless-retry-count", "")
    return Once(keys[0] if keys else None, int(count) if re.fullmatch("[0-9]{1,4}", count) else None)


OnceDep = Annotated[Once, Depends(once)]


def _again(row: RowMapping, fingerprint: str) -> Response:
    if row["fingerprint"] != fingerprint:
        raise KeyReused(
            "This Idempotency-Key was used for another request.",
            code="idempotency_key_reused",
            param="Idempotency-Key",
            hint="Send a new key for a new request; the same key only with the same body.",
        )
    return Response(row["response"], media_type="application/json", headers={"idempotent-replayed": "true"})


_busy: Counter[tuple[str, str]] = Counter()
_lock = threading.Lock()


@contextmanager
def _in_flight(request: tuple[str, str], *, alone: bool) -> Iterator[None]:
    """Requests that this process is at work on. Those of other processes meet in the database, and wait there."""
    with _lock:
        if alone and _busy[request]:
            raise Conflict(
                "The same request is still being worked on.",
                code="request_in_progress",
                hint="Send it again in a moment: it will then be answered.",
                headers=WAIT,
            )
        _busy[request] += 1
    try:
        yield
    finally:
        with _lock:
            _busy[request] -= 1
            if not _busy[request]:
                del _busy[request]

"""Answers to requests that may come twice, committed with what the request made: there is no half-recorded one.

A second request waits at `take` until the transaction of the first has ended, and then finds its answer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from sqlalchemy import RowMapping, Table, and_, delete, not_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.tables import Idempotency

KEEP_SECONDS = 24 * 3600.0
ROWS = cast(Table, Idempotency.__table__)
_INSERT: dict[str, Callable[[Table], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


class Once(NamedTuple):
    """One request. Rows from before `since` (of the database's clock) are not it, nor, if `only_retried`, first attempts."""

    tenant_id: str
    key: str
    fingerprint: str  # sha256 of what was asked
    retried: bool  # the client said that it asks again
    since: float
    only_retried: bool


def find(session: Session, once: Once) -> RowMapping | None:
    """fingerprint and response of the request that came before, if there was one."""
    rows = select(ROWS.c.fingerprint, ROWS.c.response).where(_place(once), _live(once))
    return session.execute(rows).mappings().first()


def take(session: Session, once: Once) -> RowMapping | None:
    """None: the request is ours, `answer` it in this transaction. Else the row of the one that was faster."""
    values = {"fingerprint": once.fingerprint, "retried": once.retried, "created_at": now(), "response": ""}
    insert = _INSERT[session.get_bind().dialect.name](ROWS).values(tenant_id=once.tenant_id, key=once.key, **values)
    ours = insert.on_conflict_do_update(index_elements=["tenant_id", "key"], set_=values, where=not_(_live(once)))
    if session.execute(ours.returning(ROWS.c.key)).first() is not None:
        return None
    return session.execute(select(ROWS.c.fingerprint, ROWS.c.response).where(_place(once))).mappings().one()


def answer(session: Session, once: Once, response: str) -> None:
    session.execute(update(ROWS).where(_place(once)).values(response=response))


def forget(session: Session) -> None:
    """Drops what no repetition is answered from any more."""
    session.execute(delete(ROWS).where(ROWS.c.created_at < now() - KEEP_SECONDS))


def _place(once: Once) -> Any:
    return and_(ROWS.c.tenant_id == once.tenant_id, ROWS.c.key == once.key)


def _live(once: Once) -> Any:
    since = ROWS.c.created_at >= once.since
    return and_(since, ROWS.c.retried) if once.only_retried else since

"""Doorbells: written with what made them necessary, rung afterwards by whichever housekeeper comes first.

A row is marked before its message is sent, so no lock is held while a broker is slow. A crash in between loses the
doorbell, not the job: idle workers look into the database anyway.
"""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.tables import Outbox

KEEP_RUNG_SECONDS = 3600.0


def ring(session: Session, job_id: str, times: int = 1) -> None:
    """Asks that `times` workers look at this job, once the transaction is committed."""
    session.execute(insert(Outbox).values([{"job_id": job_id, "created_at": now()} for _ in range(times)]))


def take_waiting(session: Session, limit: int = 100) -> list[tuple[int, str]]:
    """Up to `limit` doorbells (outbox id, job id), oldest first, marked as rung. No two callers take the same one."""
    waiting = (
        select(Outbox.id).where(Outbox.rung_at.is_(None)).order_by(Outbox.id).limit(limit).with_for_update(skip_locked=True)
    )
    ids = session.execute(waiting).scalars().all()
    if not ids:
        return []
    taken = update(Outbox).where(Outbox.id.in_(ids)).values(rung_at=now()).returning(Outbox.id, Outbox.job_id)
    return sorted((row.id, row.job_id) for row in session.execute(taken))


def put_back(session: Session, ids: Sequence[int]) -> None:
    """The broker did not take them: they wait again."""
    session.execute(update(Outbox).where(Outbox.id.in_(ids)).values(rung_at=None))


def forget_rung(session: Session) -> None:
    session.execute(delete(Outbox).where(Outbox.rung_at < now() - KEEP_RUNG_SECONDS))

"""Jobs as their tenant sees and steers them. What a worker writes is in leases.py, stages.py and results.py."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, RowMapping, Select, Table, case, func, insert, select, update
from sqlalchemy.orm import Session

from models.ids import new_id
from models.queries.clock import now
from models.queries.paging import Page, UnknownCursor, page
from models.status import Happening, JobStatus, after
from models.tables import Event, Job, TrainingState

JOBS, EVENTS = cast(Table, Job.__table__), cast(Table, Event.__table__)
KEYS = (JOBS.c.created_at, JOBS.c.id)

_ahead = JOBS.alias("ahead")
QUEUE_POSITION = case(
    (
        JOBS.c.status == JobStatus.queued,
        select(func.count())
        .select_from(_ahead)
        .where(
            _ahead.c.tenant_id == JOBS.c.tenant_id,
            _ahead.c.status == JobStatus.queued,
            _ahead.c.created_at < JOBS.c.created_at,
        )
        .scalar_subquery(),
    ),
    else_=None,
).label("queue_position")  # queued jobs of the same tenant that came earlier: tenants take turns, and do not see each other


def insert_job(session: Session, tenant_id: str, **values: Any) -> str:
    """A queued job. The caller writes its first event and rings the outbox in the same transaction."""
    job_id = new_id("ftjob-")
    fixed = {"id": job_id, "tenant_id": tenant_id, "created_at": now(), "status": JobStatus.queued, "progress": {}}
    session.execute(insert(JOBS).values({"lease_token": 0, "attempt": 0, **fixed, **values}))
    return job_id


def get_job(session: Session, tenant_id: str, job_id: str) -> RowMapping | None:
    return session.execute(_mine(tenant_id).where(JOBS.c.id == job_id)).mappings().first()


def page_jobs(
    session: Session, tenant_id: str, *, metadata: Mapping[str, str], after: str | None, limit: int, descending: bool
) -> Page:
    """Raises UnknownCursor."""
    rows = _mine(tenant_id)
    for key, value in metadata.items():
        rows = rows.where(JOBS.c.job_metadata[key].as_string() == value)
    place = None
    if after is not None:
        found = session.execute(select(*KEYS).where(JOBS.c.tenant_id == tenant_id, JOBS.c.id == after)).first()
        if found is None:
            raise UnknownCursor(after)
        place = tuple(found)
    return page(session, rows, KEYS, place, limit=limit, descending=descending)


def lock_status(session: Session, tenant_id: str, job_id: str) -> JobStatus | None:
    """The job's status, which nobody else can change before this transaction ends."""
    mine = select(JOBS.c.status).where(JOBS.c.tenant_id == tenant_id, JOBS.c.id == job_id)
    status = session.scalar(mine.with_for_update())
    return None if status is None else JobStatus(status)


def cancel_waiting(session: Session, job_id: str, status: JobStatus) -> None:
    """Ends a job no worker holds. `status` is the one it has (lock_status)."""
    ended = after(status, Happening.cancelled)
    _set(session, job_id, status=ended, finished_at=now(), cancel_requested_at=now(), pause_requested_at=None, lease_until=None)
    session.execute(update(TrainingState).where(TrainingState.job_id == job_id).values(dropped=True))


def pause_waiting(session: Session, job_id: str, status: JobStatus) -> None:
    """No worker takes the job until it is resumed."""
    _set(session, job_id, status=after(status, Happening.paused), pause_requested_at=now(), next_attempt_at=None)


def request_pause(session: Session, job_id: str) -> bool:
    """Asks the worker of a running job to put it away. False when that was asked before."""
    unasked = update(JOBS).where(JOBS.c.id == job_id, JOBS.c.pause_requested_at.is_(None))
    return bool(session.execute(unasked.values(pause_requested_at=now()).returning(JOBS.c.id)).first())


def withdraw_pause(session: Session, job_id: str) -> bool:
    """The worker of a running job need not put it away after all. False when nobody had asked."""
    asked = update(JOBS).where(JOBS.c.id == job_id, JOBS.c.pause_requested_at.is_not(None))
    return bool(session.execute(asked.values(pause_requested_at=None).returning(JOBS.c.id)).first())


def resume(session: Session, job_id: str, status: JobStatus) -> None:
    """Back in the queue, in its old place; somebody looked at it, so its attempts count from the start. The caller rings."""
    _set(session, job_id, status=after(status, Happening.resumed), pause_requested_at=None, next_attempt_at=None, attempt=0)


def request_cancel(session: Session, job_id: str) -> bool:
    """Asks the worker of a running job to stop. False when that was asked before."""
    unasked = update(JOBS).where(JOBS.c.id == job_id, JOBS.c.cancel_requested_at.is_(None))
    return bool(session.execute(unasked.values(cancel_requested_at=now()).returning(JOBS.c.id)).first())


def is_of(tenant_id: str, job_id: str) -> ColumnElement[bool]:
    """Holds for every row or for none: whether the job is this tenant's."""
    return select(JOBS.c.id).where(JOBS.c.tenant_id == tenant_id, JOBS.c.id == job_id).exists()


def page_events(session: Session, tenant_id: str, job_id: str, *, after: int | None, limit: int, descending: bool) -> Page:
    """Raises UnknownCursor."""
    known = select(EVENTS.c.id).where(EVENTS.c.job_id == job_id, EVENTS.c.id == after, is_of(tenant_id, job_id))
    if after is not None and session.scalar(known) is None:
        raise UnknownCursor(str(after))
    rows = select(EVENTS).where(EVENTS.c.job_id == job_id, is_of(tenant_id, job_id))
    return page(session, rows, (EVENTS.c.id,), None if after is None else (after,), limit=limit, descending=descending)


# --- finished adapters: what the wire lists as models ------------------------------------------------------------------


def finished_adapters(session: Session, tenant_id: str) -> Sequence[RowMapping]:
    """Jobs whose adapter can be used and was not deleted, newest first."""
    return session.execute(_adapters(tenant_id).order_by(JOBS.c.finished_at.desc(), JOBS.c.id)).mappings().all()


def get_adapter(session: Session, tenant_id: str, name: str) -> RowMapping | None:
    return session.execute(_adapters(tenant_id).where(JOBS.c.adapter_name == name)).mappings().first()


def hide_adapter(session: Session, tenant_id: str, name: str) -> bool:
    """False when there was none to hide."""
    mine = (JOBS.c.tenant_id == tenant_id, JOBS.c.adapter_name == name, JOBS.c.adapter_hidden_at.is_(None))
    return bool(session.execute(update(JOBS).where(*mine).values(adapter_hidden_at=now()).returning(JOBS.c.id)).first())


def _set(session: Session, job_id: str, **values: Any) -> None:
    session.execute(update(JOBS).where(JOBS.c.id == job_id).values(values))


def _mine(tenant_id: str) -> Select[Any]:
    return select(JOBS, QUEUE_POSITION).where(JOBS.c.tenant_id == tenant_id)


def _adapters(tenant_id: str) -> Select[Any]:
    visible = (JOBS.c.adapter_name.is_not(None), JOBS.c.adapter_hidden_at.is_(None))
    return select(JOBS).where(JOBS.c.tenant_id == tenant_id, JOBS.c.status == JobStatus.succeeded, *visible)

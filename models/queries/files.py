"""Files of a tenant, and the ones whose rows still have to be read."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import RowMapping, Select, Table, insert, or_, select, update
from sqlalchemy.orm import Session

from models.ids import new_id
from models.queries.clock import now
from models.queries.paging import Page, UnknownCursor, page
from models.status import TERMINAL, FileStatus
from models.tables import File, Job

FILES, JOBS = cast(Table, File.__table__), cast(Table, Job.__table__)


def insert_file(session: Session, tenant_id: str, *, expires_after: float | None, **values: Any) -> RowMapping:
    """A new row. `expires_after` is in seconds from now. `values` are the columns the caller knows."""
    expires = None if expires_after is None else now() + expires_after
    row = {"id": new_id("file-"), "tenant_id": tenant_id, "created_at": now(), "expires_at": expires, **values}
    return session.execute(insert(FILES).values(row).returning(*FILES.c)).mappings().one()


def get_file(session: Session, tenant_id: str, file_id: str) -> RowMapping | None:
    return session.execute(_mine(tenant_id).where(FILES.c.id == file_id)).mappings().first()


def page_files(
    session: Session, tenant_id: str, *, purpose: str | None, after: str | None, limit: int, descending: bool
) -> Page:
    """Raises UnknownCursor. A file deleted since the last page still marks its place."""
    rows = _mine(tenant_id)
    if purpose is not None:
        rows = rows.where(FILES.c.purpose == purpose)
    return page(session, rows, KEYS, _place(session, tenant_id, after), limit=limit, descending=descending)


def delete_file(session: Session, tenant_id: str, file_id: str) -> None:
    """A tombstone: jobs that used the file keep pointing at it."""
    session.execute(
        update(FILES).where(FILES.c.tenant_id == tenant_id, FILES.c.id == file_id).values(status=FileStatus.deleted)
    )


def lock_file(session: Session, tenant_id: str, file_id: str) -> RowMapping | None:
    """The row, held until the transaction ends: a job that wants it waits for a deletion, and the other way round."""
    return session.execute(_mine(tenant_id).where(FILES.c.id == file_id).with_for_update()).mappings().first()


def open_jobs_using(session: Session, tenant_id: str, file_id: str) -> Sequence[str]:
    """Ids of jobs that are not finished and read this file."""
    columns = (JOBS.c.training_file, JOBS.c.validation_file, JOBS.c.unlabeled_file, JOBS.c.test_file)
    reads = or_(*(column == file_id for column in columns))
    return session.scalars(
        select(JOBS.c.id).where(JOBS.c.tenant_id == tenant_id, reads, JOBS.c.status.not_in(TERMINAL)).order_by(JOBS.c.id)
    ).all()


def unread_files(session: Session) -> Sequence[RowMapping]:
    """Uploads of all tenants that nobody has validated yet, oldest first."""
    unread = select(FILES).where(FILES.c.status == FileStatus.uploaded).order_by(FILES.c.created_at)
    return session.execute(unread).mappings().all()


def record_validation(
    session: Session, file_id: str, *, status: FileStatus, details: str | None, report: dict[str, Any]
) -> None:
    """Changes an `uploaded` file only: a deletion in the meantime, or another reader, wins."""
    session.execute(
        update(FILES)
        .where(FILES.c.id == file_id, FILES.c.status == FileStatus.uploaded)
        .values(status=status, status_details=details, validation=report)
    )


def expired_files(session: Session) -> Sequence[RowMapping]:
    due = select(FILES).where(FILES.c.expires_at < now(), FILES.c.status != FileStatus.deleted)
    return session.execute(due).mappings().all()


KEYS = (FILES.c.created_at, FILES.c.id)


def _mine(tenant_id: str) -> Select[Any]:
    return select(FILES).where(FILES.c.tenant_id == tenant_id, FILES.c.status != FileStatus.deleted)


def _place(session: Session, tenant_id: str, after: str | None) -> tuple[Any, ...] | None:
    if after is None:
        return None
    place = session.execute(select(*KEYS).where(FILES.c.tenant_id == tenant_id, FILES.c.id == after)).first()
    if place is None:
        raise UnknownCursor(after)
    return tuple(place)

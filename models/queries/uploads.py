"""Uploads in parts, and how many bodies of a key are arriving at once."""

from collections.abc import Collection, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, RowMapping, Select, Table, delete, func, insert, select, update
from sqlalchemy.orm import Session

from models.ids import new_id
from models.queries.clock import now
from models.status import UploadStatus
from models.tables import ApiKey, Upload, UploadPart, UploadSlot

UPLOADS, PARTS, SLOTS = (cast(Table, kind.__table__) for kind in (Upload, UploadPart, UploadSlot))
PENDING = UPLOADS.c.status == UploadStatus.pending
SLOT_SECONDS = 120.0  # a slot that is not renewed for so long is free


def insert_upload(session: Session, tenant_id: str, *, seconds: float, **values: Any) -> RowMapping:
    """A new upload that is open for `seconds`. `values` are the columns the caller knows."""
    row = {"id": new_id("upload_"), "tenant_id": tenant_id, "created_at": now(), "expires_at": now() + seconds}
    made = insert(UPLOADS).values(**row, status=UploadStatus.pending, **values).returning(*_columns())
    return session.execute(made).mappings().one()


def get_upload(session: Session, tenant_id: str, upload_id: str) -> RowMapping | None:
    return session.execute(_mine(tenant_id, upload_id)).mappings().first()


def lock_upload(session: Session, tenant_id: str, upload_id: str) -> RowMapping | None:
    """The row, held until the transaction ends: of a part, a completion and a cancellation at once, one comes first."""
    return session.execute(_mine(tenant_id, upload_id).with_for_update()).mappings().first()


def insert_part(session: Session, upload: RowMapping, *, bytes: int, sha256: str) -> RowMapping:
    row = {"id": new_id("part_"), "tenant_id": upload["tenant_id"], "upload_id": upload["id"], "created_at": now()}
    return session.execute(insert(PARTS).values(**row, bytes=bytes, sha256=sha256).returning(*PARTS.c)).mappings().one()


def parts(session: Session, upload: RowMapping) -> Sequence[RowMapping]:
    mine = select(PARTS).where(PARTS.c.tenant_id == upload["tenant_id"], PARTS.c.upload_id == upload["id"])
    return session.execute(mine.order_by(PARTS.c.created_at, PARTS.c.id)).mappings().all()


def end_upload(session: Session, upload: RowMapping, status: UploadStatus, file_id: str | None = None) -> RowMapping:
    """Of one that is held and pending. Its parts are forgotten; their bytes go with the upload's room of the store."""
    session.execute(delete(PARTS).where(PARTS.c.tenant_id == upload["tenant_id"], PARTS.c.upload_id == upload["id"]))
    mine = update(UPLOADS).where(UPLOADS.c.tenant_id == upload["tenant_id"], UPLOADS.c.id == upload["id"], PENDING)
    return session.execute(mine.values(status=status, file_id=file_id).returning(*_columns())).mappings().one()


def announced_bytes(session: Session, tenant_id: str) -> int:
    """Of uploads that may still be completed: room that is spoken for."""
    mine = select(func.coalesce(func.sum(UPLOADS.c.bytes), 0)).where(UPLOADS.c.tenant_id == tenant_id, PENDING, ~_late())
    return int(session.execute(mine).scalar_one())


def expire_uploads(session: Session, grace: float) -> int:
    """Ends pending uploads, of all tenants, that were due `grace` seconds ago: how many."""
    due = (PENDING, UPLOADS.c.expires_at < now() - grace)
    gone = session.scalars(update(UPLOADS).where(*due).values(status=UploadStatus.expired).returning(UPLOADS.c.id)).all()
    session.execute(delete(PARTS).where(PARTS.c.upload_id.in_(gone)))
    return len(gone)


def pending_uploads(session: Session, ids: Collection[str]) -> set[str]:
    """Those of `ids`, of any tenant, that parts may still be added to."""
    return set(session.scalars(select(UPLOADS.c.id).where(UPLOADS.c.id.in_(ids), PENDING)))


# --- slots ----------------------------------------------------------------------------------------------------------------


def take_slot(session: Session, tenant_id: str, key_id: str, limit: int) -> int | None:
    """One of a key's `limit` slots; None where all are taken. Two requests cannot both get the last one: the key is held."""
    session.execute(select(ApiKey.id).where(ApiKey.tenant_id == tenant_id, ApiKey.id == key_id).with_for_update(key_share=True))
    of_key = (SLOTS.c.tenant_id == tenant_id, SLOTS.c.key_id == key_id)
    session.execute(delete(SLOTS).where(*of_key, SLOTS.c.until < now()))
    if session.execute(select(func.count()).select_from(SLOTS).where(*of_key)).scalar_one() >= limit:
        return None
    row = {"tenant_id": tenant_id, "key_id": key_id, "until": now() + SLOT_SECONDS}
    slot: int = session.execute(insert(SLOTS).values(row).returning(SLOTS.c.id)).scalar_one()
    return slot


def renew_slot(session: Session, tenant_id: str, slot: int) -> None:
    mine = update(SLOTS).where(SLOTS.c.tenant_id == tenant_id, SLOTS.c.id == slot)
    session.execute(mine.values(until=now() + SLOT_SECONDS))


def free_slot(session: Session, tenant_id: str, slot: int) -> None:
    session.execute(delete(SLOTS).where(SLOTS.c.tenant_id == tenant_id, SLOTS.c.id == slot))


def _late() -> ColumnElement[bool]:
    return UPLOADS.c.expires_at <= now()


def _columns() -> tuple[ColumnElement[Any], ...]:
    return *UPLOADS.c, _late().label("late")


def _mine(tenant_id: str, upload_id: str) -> Select[Any]:
    return select(*_columns()).where(UPLOADS.c.tenant_id == tenant_id, UPLOADS.c.id == upload_id)

"""What a tenant uses, and how often a key asks: counted in the database, so that it holds for all API processes together."""

from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Table, and_, case, func, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from models.queries.clock import now
from models.status import TERMINAL, FileStatus
from models.tables import ApiKey, File, Job, Tenant

WINDOW_SECONDS = 60.0
KEYS = cast(Table, ApiKey.__table__)


class Window(NamedTuple):
    """`granted` requests, to be made within `left` seconds; 0: the window is used up, and the next one begins then."""

    granted: int
    left: float


def hold_tenant(session: Session, tenant_id: str) -> None:
    """Until the transaction ends nobody else passes here: two requests must not both fit into the room for one."""
    held = select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True)
    session.execute(held).one()


def open_jobs(session: Session, tenant_id: str) -> int:
    """Jobs that have not ended."""
    mine = select(func.count()).select_from(Job).where(Job.tenant_id == tenant_id, Job.status.not_in(TERMINAL))
    return session.execute(mine).scalar_one()


def stored_bytes(session: Session, tenant_id: str) -> int:
    """Of uploads that were not deleted, each counted in full: that another has the same bytes is nobody's business."""
    mine = select(func.coalesce(func.sum(File.bytes), 0)).where(File.tenant_id == tenant_id, File.status != FileStatus.deleted)
    return int(session.execute(mine).scalar_one())


def take_requests(session: Session, key_id: str, wanted: int, limit: int) -> Window:
    """Up to `wanted` of a key's `limit` requests of a minute. A minute begins with the first request after the last one."""
    for count in dict.fromkeys((wanted, 1)):
        taken = session.execute(_take(key_id, count, limit)).first()
        if taken is not None:
            return Window(count, taken.left)
    left = session.execute(select(KEYS.c.window_at + WINDOW_SECONDS - now()).where(KEYS.c.id == key_id)).scalar()
    return Window(0, max(left or 0.0, 0.0))


def _take(key_id: str, count: int, limit: int) -> ReturningUpdate[Any]:
    over: ColumnElement[bool] = or_(KEYS.c.window_at.is_(None), KEYS.c.window_at <= now() - WINDOW_SECONDS)
    values = {
        "window_used": case((over, count), else_=KEYS.c.window_used + count),
        "window_at": case((over, now()), else_=KEYS.c.window_at),
    }
    fits = and_(KEYS.c.id == key_id, or_(over, KEYS.c.window_used + count <= limit))
    return update(KEYS).where(fits).values(values).returning((KEYS.c.window_at + WINDOW_SECONDS - now()).label("left"))

"""API keys and the tenants they belong to. A key's row is never deleted: who used the service stays known."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, RowMapping, Table, and_, func, insert, or_, select, update
from sqlalchemy.orm import Session

from models.keys import Key, Scope
from models.queries.clock import now
from models.tables import ApiKey, Tenant

KEYS, TENANTS = cast(Table, ApiKey.__table__), cast(Table, Tenant.__table__)
USED_SECONDS = 600.0  # `last_used_at` is written at most this often: reading must not become writing


def find_key(session: Session, key_id: str) -> RowMapping | None:
    """The key of any tenant, its secret's hash, and `valid_seconds`: how long it is good for; None without an end."""
    valid = (KEYS.c.expires_at - now()).label("valid_seconds")
    used = (now() - func.coalesce(KEYS.c.last_used_at, 0.0) < USED_SECONDS).label("used_lately")
    return session.execute(select(KEYS, valid, used).where(KEYS.c.id == key_id)).mappings().first()


def note_use(session: Session, key_id: str) -> None:
    session.execute(update(KEYS).where(KEYS.c.id == key_id).values(last_used_at=now()))


def insert_key(
    session: Session, tenant_id: str, key: Key, *, name: str, scopes: Sequence[Scope], expires_in: float | None
) -> RowMapping:
    """`expires_in` is in seconds from now; None: it does not expire. The tenant must exist."""
    row: dict[str, Any] = {"id": key.id, "tenant_id": tenant_id, "name": name, "secret_sha256": key.secret_sha256}
    row |= {
        "window_used": 0,
        "scopes": list(scopes),
        "created_at": now(),
        "expires_at": None if expires_in is None else now() + expires_in,
    }
    return session.execute(insert(KEYS).values(row).returning(*SHOWN)).mappings().one()


def list_keys(session: Session, tenant_id: str) -> Sequence[RowMapping]:
    """Newest first, with those that are revoked or have expired."""
    mine = select(*SHOWN).where(KEYS.c.tenant_id == tenant_id)
    return session.execute(mine.order_by(KEYS.c.created_at.desc(), KEYS.c.id)).mappings().all()


def get_key(session: Session, tenant_id: str, key_id: str) -> RowMapping | None:
    return session.execute(select(*SHOWN).where(KEYS.c.tenant_id == tenant_id, KEYS.c.id == key_id)).mappings().first()


def revoke_key(session: Session, tenant_id: str, key_id: str) -> bool:
    """False when there is no such key. One that is revoked keeps the time of the first time."""
    mine = update(KEYS).where(KEYS.c.tenant_id == tenant_id, KEYS.c.id == key_id)
    return bool(session.execute(mine.values(revoked_at=func.coalesce(KEYS.c.revoked_at, now())).returning(KEYS.c.id)).first())


def count_usable(session: Session, tenant_id: str | None = None) -> int:
    """Keys that open anything, of a tenant or of all."""
    usable = select(func.count()).select_from(KEYS).where(_usable())
    return session.execute(usable if tenant_id is None else usable.where(KEYS.c.tenant_id == tenant_id)).scalar_one()


def ensure_tenant(session: Session, tenant_id: str) -> bool:
    """True when it is new."""
    if session.execute(select(TENANTS.c.id).where(TENANTS.c.id == tenant_id)).first():
        return False
    session.execute(insert(TENANTS).values(id=tenant_id, created_at=now()))
    return True


def all_keys(session: Session) -> Sequence[RowMapping]:
    """Of all tenants, for the operator."""
    return session.execute(select(*SHOWN).order_by(KEYS.c.tenant_id, KEYS.c.created_at)).mappings().all()


SHOWN = [column for column in KEYS.c if column.name != "secret_sha256"]


def _usable() -> ColumnElement[bool]:
    return and_(KEYS.c.revoked_at.is_(None), or_(KEYS.c.expires_at.is_(None), KEYS.c.expires_at > now()))

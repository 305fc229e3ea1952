"""The smallest question a database can answer."""

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.queries.clock import now


def answers(session: Session) -> float:
    """The database's time, as epoch seconds."""
    return session.execute(select(now())).scalar_one()


def looks_over_the_wall(session: Session) -> bool:
    """Whether PostgreSQL's row-level security does not hold us: for superusers, and roles with BYPASSRLS."""
    if session.get_bind().dialect.name != "postgresql":
        return False
    ours = text("select rolsuper or rolbypassrls from pg_roles where rolname = current_user")
    return bool(session.execute(ours).scalar())

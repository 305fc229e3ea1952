"""The smallest question a database can answer."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.queries.clock import now


def answers(session: Session) -> float:
    """The database's time, as epoch seconds."""
    return session.execute(select(now())).scalar_one()

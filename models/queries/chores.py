"""What one process at a time does for all of them: whoever finds it due has it for this time."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.tables import Chore


def is_due(session: Session, name: str, seconds: float) -> bool:
    """Whether it was begun longer ago than `seconds`."""
    return session.scalar(select(Chore.name).where(Chore.name == name, Chore.begun_at <= now() - seconds)) is not None


def begin(session: Session, name: str, seconds: float) -> bool:
    """Whether it is ours to do. Of those who ask at once, one is told so."""
    due = update(Chore).where(Chore.name == name, Chore.begun_at <= now() - seconds).values(begun_at=now())
    return session.execute(due.returning(Chore.name)).first() is not None

"""Appending to a job's history."""

from typing import Any, Literal

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.tables import Event

Level = Literal["info", "warn", "error"]


def add_event(
    session: Session,
    job_id: str,
    message: str,
    *,
    level: Level = "info",
    type: Literal["message", "metrics"] = "message",
    data: dict[str, Any] | None = None,
) -> None:
    row = {"job_id": job_id, "created_at": now(), "level": level, "type": type, "message": message, "data": data}
    session.execute(insert(Event).values(row))


def warned_of(session: Session, job_id: str, code: str) -> list[str]:
    """Messages of the job's warnings with this code, oldest first, each once."""
    warnings = select(Event.message, Event.data).where(Event.job_id == job_id, Event.level == "warn").order_by(Event.id)
    found = (row.message for row in session.execute(warnings) if row.data and row.data.get("code") == code)
    return list(dict.fromkeys(found))

"""Appending to a job's history."""

from typing import Any, Literal

from sqlalchemy import insert
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

"""Bugs on purpose, for a worker and an API started by tests alone: what the checker must be seen to catch.

CHAOS_BUG names one. Nothing in the service knows of it: the stand-ins worker.py and app.py call `plant` before they import
what it changes.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from models.queries import leases, outbox, stages
from models.queries.leases import Beat, Lease
from models.status import JobStatus
from models.tables import Job, Stage

VARIABLE = "CHAOS_BUG"


def no_lease_check() -> None:
    """Whoever once had the job may write it: the fence asks for the job and not for the token."""
    leases._mine = lambda lease: (Job.id == lease.job_id, Job.status == JobStatus.running)


def stage_recorded_twice() -> None:
    """A finished stage is not looked up, and its second output replaces the first."""
    commit = stages.commit_stage

    def again(session: Session, lease: Lease, name: str, *rest: Any) -> Any:
        session.execute(update(Stage).where(Stage.job_id == lease.job_id, Stage.name == name).values(status="open"))
        return commit(session, lease, name, *rest)

    stages.lookup = lambda *_: None
    stages.commit_stage = again


def cancel_overwritten() -> None:
    """A job that gets to its end has succeeded, whatever somebody was promised meanwhile."""
    beat, finish = leases.heartbeat, leases.finish

    def deaf(*arguments: Any) -> Beat:
        return replace(beat(*arguments), cancel=False)

    def late(session: Session, lease: Lease, status: JobStatus, **more: Any) -> Any:
        session.execute(update(Job).where(Job.id == lease.job_id).values(cancel_requested_at=None))
        return finish(session, lease, status, **more)

    leases.heartbeat, leases.finish = deaf, late


def outbox_skipped() -> None:
    """No doorbell is written down, and workers believe the broker: they do not look into the database by themselves."""
    outbox.ring = lambda *_: None


BUGS: Mapping[str, Callable[[], None]] = {
    "no lease check": no_lease_check,
    "stage recorded twice": stage_recorded_twice,
    "cancel overwritten": cancel_overwritten,
    "outbox skipped": outbox_skipped,
}


def plant() -> str:
    """The bug this process has; empty for none."""
    name = os.environ.get(VARIABLE, "")
    if name:
        BUGS[name]()
    return name

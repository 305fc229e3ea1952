"""Checkpoints inside training stages, as rows: the newest two of each stage count. Written by the job's own worker, fenced.

A row is dropped first and deleted after its blobs are gone, so that a crash in between leaves work for the sweeper and no
bytes that nobody knows of.
"""

from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.queries.leases import Lease, hold
from models.tables import TrainingState

KEPT = 2


class Dropped(NamedTuple):
    """A row whose blobs are to be discarded, and then the row itself."""

    job_id: str
    stage: str
    step: int
    token: int
    manifest: dict[str, Any]


def keep_state(session: Session, lease: Lease, stage: str, step: int, manifest: dict[str, Any]) -> None:
    """Records a checkpoint and drops all but the newest two. Further than ever before is progress (leases.py)."""
    job = hold(session, lease)
    best = session.scalar(select(func.max(TrainingState.step)).where(*_of(lease.job_id, stage)))
    same = (TrainingState.step == step, TrainingState.token == lease.token)
    if session.scalar(select(TrainingState.step).where(*_of(lease.job_id, stage), *same)) is not None:
        return  # said twice: the confirmation got lost
    values = {"job_id": lease.job_id, "stage": stage, "step": step, "token": lease.token}
    session.execute(insert(TrainingState).values(**values, created_at=now(), dropped=False, manifest=manifest))
    if best is None or step > best:
        job.attempt = 0
    newest = kept_states(session, lease.job_id, stage)
    for old_step, old_token, _ in newest[KEPT:]:
        _drop(session, lease.job_id, stage, old_step, old_token)
    session.flush()


def kept_states(session: Session, job_id: str, stage: str) -> list[tuple[int, int, dict[str, Any]]]:
    """(step, token, manifest) of the checkpoints that count, newest first."""
    kept = select(TrainingState.step, TrainingState.token, TrainingState.manifest).where(
        *_of(job_id, stage), TrainingState.dropped.is_(False)
    )
    found = session.execute(kept.order_by(TrainingState.step.desc(), TrainingState.token.desc()))
    return [(row.step, row.token, row.manifest) for row in found]


def drop_state(session: Session, lease: Lease, stage: str, step: int) -> None:
    """One that turned out to be unreadable."""
    hold(session, lease)
    session.execute(update(TrainingState).where(*_of(lease.job_id, stage), TrainingState.step == step).values(dropped=True))


def drop_stage(session: Session, job_id: str, stage: str) -> None:
    """The stage's output is stored: nobody goes on from inside it any more. The caller holds the job."""
    session.execute(update(TrainingState).where(*_of(job_id, stage)).values(dropped=True))


def dropped_states(session: Session, job_id: str | None = None) -> list[Dropped]:
    gone = select(TrainingState).where(TrainingState.dropped.is_(True))
    if job_id is not None:
        gone = gone.where(TrainingState.job_id == job_id)
    return [Dropped(row.job_id, row.stage, row.step, row.token, row.manifest) for row in session.execute(gone).scalars()]


def named(session: Session) -> set[str]:
    """sha256 of every file of a checkpoint that counts, of any job: there are two a stage of a job that runs."""
    kept = select(TrainingState.manifest).where(TrainingState.dropped.is_(False))
    return {entry["sha256"] for manifest in session.scalars(kept) for entry in manifest["files"].values()}


def forget_state(session: Session, gone: Dropped) -> None:
    which = (TrainingState.step == gone.step, TrainingState.token == gone.token)
    session.execute(delete(TrainingState).where(*_of(gone.job_id, gone.stage), *which, TrainingState.dropped.is_(True)))


def _drop(session: Session, job_id: str, stage: str, step: int, token: int) -> None:
    which = (TrainingState.step == step, TrainingState.token == token)
    session.execute(update(TrainingState).where(*_of(job_id, stage), *which).values(dropped=True))


def _of(job_id: str, stage: str) -> tuple[Any, Any]:
    return TrainingState.job_id == job_id, TrainingState.stage == stage

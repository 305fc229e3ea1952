"""Stages and chunks of a running job. Every write first takes hold of the job (leases.hold): a stale worker gets LeaseLost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.queries.leases import Lease, LeaseLost, hold
from models.queries.outbox import ring
from models.queries.results import record
from models.queries.training_states import drop_stage
from models.settings import settings
from models.tables import Chunk, Stage

HELPERS_RUNG = 4  # doorbells for a mapped stage; idle workers that hear none look for open chunks by themselves


class ChunkLost(LeaseLost):
    """Its lease ran out and another took it, or has done it. The job may still be ours: only this output is of no use."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """One of: a chunk to compute; others hold what is left (`wait`); all done; the stage is not open (yet, or any more)."""

    chunk: int | None = None
    wait: bool = False
    done: bool = False


def lookup(session: Session, job_id: str, name: str) -> dict[str, Any] | None:
    """The manifest of a finished stage."""
    done = select(Stage.manifest).where(Stage.job_id == job_id, Stage.name == name, Stage.status == "done")
    return session.execute(done).scalar_one_or_none()


def commit_stage(
    session: Session, lease: Lease, name: str, manifest: dict[str, Any], payload: Any, seconds: float
) -> dict[str, Any]:
    """Records a stage's output and what the API shows of it, once; the manifest that counts (an earlier one stays)."""
    job = hold(session, lease)
    stage = _stage(session, lease, name)
    if stage.status == "done":
        return stage.manifest or {}
    stage.status, stage.manifest, stage.seconds, stage.done_at, stage.token = "done", manifest, seconds, now(), lease.token
    job.attempt = 0  # progress: a job that gets on is never given up
    session.flush()
    drop_stage(session, lease.job_id, name)
    record(session, job, name, manifest, payload)
    return manifest


def begin_stage(session: Session, lease: Lease, name: str) -> None:
    """From now on the stage shows as open."""
    hold(session, lease)
    _stage(session, lease, name)


def open_stage(session: Session, lease: Lease, name: str, chunks: int, items: int) -> None:
    """Makes the rows of a mapped stage, once, and asks idle workers to help."""
    hold(session, lease)
    stage = _stage(session, lease, name)
    if stage.chunks is not None:
        return
    stage.chunks, stage.items = chunks, items
    if chunks == 0:
        stage.status, stage.seconds, stage.done_at, stage.token = "done", 0.0, now(), lease.token
    session.flush()
    if chunks:
        rows = [
            {"job_id": lease.job_id, "stage": name, "number": number, "status": "open", "runs": 0} for number in range(chunks)
        ]
        session.execute(insert(Chunk), rows)
    if chunks > 1:
        ring(session, lease.job_id, min(chunks - 1, HELPERS_RUNG))


def claim_chunk(session: Session, lease: Lease, name: str) -> Claimed:
    """The lowest chunk nobody holds, now ours for one lease (the heartbeat prolongs it).

    A runner computes one chunk at a time, so one that is ours already is one whose answer got lost on the way: again it.
    """
    hold(session, lease)
    mine_or_expired = or_(Chunk.lease_token == lease.token, Chunk.lease_until < now())
    free = or_(Chunk.status == "open", and_(Chunk.status == "leased", mine_or_expired))
    number = session.execute(select(func.min(Chunk.number)).where(*_chunks(lease.job_id, name), free)).scalar()
    if number is None:
        left = select(func.count(), func.count().filter(Chunk.status != "done")).where(*_chunks(lease.job_id, name))
        total, unfinished = session.execute(left).one()
        return Claimed(wait=bool(unfinished), done=not unfinished and (total > 0 or _finished(session, lease.job_id, name)))
    mine = {
        "status": "leased",
        "lease_token": lease.token,
        "lease_until": now() + settings().lease_seconds,
        "worker": lease.worker,
    }
    session.execute(update(Chunk).where(*_chunks(lease.job_id, name), Chunk.number == number).values(mine))
    return Claimed(chunk=number)


def commit_chunk(
    session: Session, lease: Lease, name: str, number: int, manifest: dict[str, Any], seconds: float
) -> tuple[int, int]:
    """Records a chunk's output, and the stage's end when it was the last. Returns (chunks done, chunks of the stage).

    Raises ChunkLost, or LeaseLost when the job itself is no longer ours.
    """
    job = hold(session, lease)
    mine = (Chunk.number == number, Chunk.lease_token == lease.token, Chunk.status == "leased")
    done = {"status": "done", "manifest": manifest, "seconds": seconds, "runs": Chunk.runs + 1, "lease_until": None}
    written = session.execute(update(Chunk).where(*_chunks(lease.job_id, name), *mine).values(done).returning(Chunk.number))
    if written.first() is None and not _done_by(session, lease, name, number):
        raise ChunkLost(f"{lease.worker} no longer holds chunk {number} of {name} of {lease.job_id} (token {lease.token})")
    job.attempt = 0
    total, finished, took = session.execute(
        select(func.count(), func.count().filter(Chunk.status == "done"), func.sum(Chunk.seconds)).where(
            *_chunks(lease.job_id, name)
        )
    ).one()
    if finished == total:
        stage = _stage(session, lease, name)
        stage.status, stage.seconds, stage.done_at, stage.token = "done", took, now(), lease.token
    session.flush()
    return finished, total


def finished_chunks(session: Session, job_id: str, name: str) -> Sequence[tuple[int, dict[str, Any]]]:
    """(number, manifest) of every finished chunk, in order."""
    done = select(Chunk.number, Chunk.manifest).where(*_chunks(job_id, name), Chunk.status == "done").order_by(Chunk.number)
    return [(row.number, row.manifest) for row in session.execute(done)]


def forget_stage(session: Session, lease: Lease, name: str) -> None:
    """Its stored output turned out to be unreadable: it is made again."""
    hold(session, lease)
    session.execute(delete(Stage).where(Stage.job_id == lease.job_id, Stage.name == name))


def forget_chunk(session: Session, lease: Lease, name: str, number: int) -> None:
    hold(session, lease)
    again = {"status": "open", "manifest": None, "lease_token": None}
    session.execute(update(Chunk).where(*_chunks(lease.job_id, name), Chunk.number == number).values(again))
    session.execute(update(Stage).where(Stage.job_id == lease.job_id, Stage.name == name).values(status="open", done_at=None))


def stage_seconds(session: Session, job_id: str) -> dict[str, float]:
    """Seconds each finished stage took to compute (chunks added up, whoever computed them), in order of first opening."""
    done = select(Stage.name, Stage.seconds).where(Stage.job_id == job_id, Stage.status == "done").order_by(Stage.position)
    return {row.name: row.seconds or 0.0 for row in session.execute(done)}


def _chunks(job_id: str, name: str) -> tuple[Any, Any]:
    return Chunk.job_id == job_id, Chunk.stage == name


def _done_by(session: Session, lease: Lease, name: str, number: int) -> bool:
    """Whether this very lease has recorded the chunk before, and only the confirmation got lost."""
    ours = (Chunk.number == number, Chunk.lease_token == lease.token, Chunk.status == "done")
    return session.execute(select(Chunk.number).where(*_chunks(lease.job_id, name), *ours)).first() is not None


def _finished(session: Session, job_id: str, name: str) -> bool:
    done = select(Stage.name).where(Stage.job_id == job_id, Stage.name == name, Stage.status == "done")
    return session.execute(done).first() is not None


def _stage(session: Session, lease: Lease, name: str) -> Stage:
    """The stage's row, made when this is the first anyone hears of it. The caller holds the job, so nobody else makes it."""
    found = session.get(Stage, (lease.job_id, name))
    if found is not None:
        return found
    position = select(func.coalesce(func.max(Stage.position), 0) + 1).where(Stage.job_id == lease.job_id)
    made = Stage(
        job_id=lease.job_id, name=name, position=session.execute(position).scalar_one(), status="open", opened_at=now()
    )
    session.add(made)
    session.flush()
    return made

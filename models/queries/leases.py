"""Who may write a job's results: claim, heartbeat, fence, end, sweep.

A lease is a token that was never handed out before. Every write of a result first takes hold of the job's row with its
token (`hold`); a worker that lost its lease changes 0 rows from then on. A *helper* holds chunks of a job another worker
owns: its token stands on the chunks instead of the job.

On PostgreSQL rows are locked (`FOR NO KEY UPDATE`, so that foreign keys to the job stay free). SQLite has no row locks and
SQLAlchemy drops the clause there; every writer runs inside BEGIN IMMEDIATE instead (models/db.py).
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.queries.events import add_event
from models.queries.idempotency import forget
from models.queries.outbox import forget_rung, ring
from models.queries.results import adapter_name
from models.queries.turns import in_turn
from models.settings import settings
from models.status import Happening, JobStatus, after
from models.tables import Chunk, Fence, Job, Stage, TrainingState

LOST = {"code": "worker_lost", "param": None}


class LeaseLost(Exception):
    """Somebody else holds this work now, or it has ended. Stop, and write nothing more."""


@dataclass(frozen=True, slots=True)
class Lease:
    job_id: str
    token: int
    worker: str
    helper: bool = False
    tenant: str = ""  # for the log


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat learns. Not `held`: stop at once. `cancel`, `pause`: somebody asked for the job's end, or a rest."""

    held: bool
    cancel: bool
    pause: bool = False


def claim_job(session: Session, worker: str) -> Lease | None:
    """The job whose turn it is (turns.py) of those that wait, or whose worker went silent; None when there is none."""
    waits = and_(Job.status == JobStatus.queued, or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= now()))
    silent = and_(Job.status == JobStatus.running, Job.lease_until < now(), Job.attempt < settings().max_attempts)
    free = select(Job.id, Job.tenant_id, Job.lease_token, Job.status).where(or_(waits, silent), *_unasked())
    first = in_turn(free).limit(1).with_for_update(of=Job, skip_locked=True, key_share=True)
    found = session.execute(first).first()
    if found is None:
        return None
    lease = Lease(found.id, _new_token(session), worker, tenant=found.tenant_id)
    _open_chunks(session, found.id, found.lease_token)
    values = {
        "status": after(found.status, Happening.claimed),
        "lease_token": lease.token,
        "lease_until": now() + settings().lease_seconds,
        "worker": worker,
        "attempt": Job.attempt + 1,
        "started_at": func.coalesce(Job.started_at, now()),
        "next_attempt_at": None,
    }
    session.execute(update(Job).where(Job.id == found.id).values(values))
    add_event(session, lease.job_id, "Fine-tuning job started", data={"worker": worker})
    return lease


def claim_help(session: Session, worker: str) -> Lease | None:
    """A lease to help with a running job that has open chunks; the oldest such job. Nothing is held before its first chunk."""
    open_chunk = and_(Chunk.job_id == Job.id, or_(Chunk.status == "open", _expired_chunk()))
    found = session.execute(
        select(Job.id, Job.tenant_id)
        .where(Job.status == JobStatus.running, Job.worker != worker, *_unasked())
        .where(select(Chunk.job_id).where(open_chunk).exists())
        .order_by(Job.created_at, Job.id)
        .limit(1)
    ).first()
    return Lease(found.id, _new_token(session), worker, helper=True, tenant=found.tenant_id) if found else None


def heartbeat(session: Session, lease: Lease, progress: dict[str, Any] | None = None) -> Beat:
    """Prolongs the lease, and every chunk held under it. Only the job's own worker writes `progress`."""
    until = now() + settings().lease_seconds
    values = {"lease_until": until} | ({"progress": progress} if progress else {})
    wishes = (Job.cancel_requested_at, Job.pause_requested_at)
    if lease.helper:
        alive = session.execute(select(*wishes).where(Job.id == lease.job_id, Job.status == JobStatus.running))
    else:
        alive = session.execute(update(Job).where(*_mine(lease)).values(values).returning(*wishes))
    row = alive.first()
    if row is None:
        return Beat(held=False, cancel=False)
    mine = and_(Chunk.job_id == lease.job_id, Chunk.lease_token == lease.token, Chunk.status == "leased")
    session.execute(update(Chunk).where(mine).values(lease_until=until))
    return Beat(held=True, cancel=row.cancel_requested_at is not None, pause=row.pause_requested_at is not None)


def hold(session: Session, lease: Lease) -> Job:
    """The job, locked until this transaction ends; the first statement of every write of a result. Raises LeaseLost."""
    job = session.execute(
        select(Job).where(*_mine(lease)).with_for_update(key_share=True).execution_options(populate_existing=True)
    ).scalar_one_or_none()
    if job is None:
        raise LeaseLost(f"{lease.worker} no longer holds {lease.job_id} (token {lease.token})")
    return job


def finish(session: Session, lease: Lease, status: JobStatus, *, error: dict[str, Any] | None = None) -> JobStatus | None:
    """Ends the job; the status it got, None when the lease was lost. A cancel that came first wins over `succeeded`."""
    try:
        job = hold(session, lease)
    except LeaseLost:
        return None
    if job.cancel_requested_at is not None:
        status, error = JobStatus.cancelled, None
    _end(session, job, Happening(status), error=error)
    return status


def release(session: Session, lease: Lease, *, counted: bool, error: dict[str, Any] | None = None) -> JobStatus | None:
    """Gives the job back unfinished; what it became, None when the lease was lost.

    `counted`: the attempt failed (the job fails with `error` once there were max_attempts of them without progress). Not
    counted: the worker goes away in good order, or its machine is at fault (`error`), and another may start at once.
    """
    if lease.helper:
        _open_chunks(session, lease.job_id, lease.token)
        return None
    try:
        job = hold(session, lease)
    except LeaseLost:
        return None
    if not counted:
        job.attempt = max(0, job.attempt - 1)
    return _end_attempt(session, job, counted=counted, error=error)


def sweep(session: Session) -> dict[str, str]:
    """Frees the jobs of workers that went silent; {job id: its tenant}. Any process may run it at any time."""
    silent = and_(Job.status == JobStatus.running, Job.lease_until < now())
    unwanted = and_(Job.status == JobStatus.queued, Job.cancel_requested_at.is_not(None))  # cancelled as it was given back
    jobs = (
        session.execute(select(Job).where(or_(silent, unwanted)).with_for_update(skip_locked=True, key_share=True))
        .scalars()
        .all()
    )
    for job in jobs:
        _end_attempt(session, job, counted=True, error=None)
    forget_rung(session)
    forget(session)
    newest = select(func.max(Fence.id)).scalar_subquery()
    session.execute(delete(Fence).where(Fence.id < newest))  # the counter itself never goes back
    return {job.id: job.tenant_id for job in jobs}


def _end_attempt(session: Session, job: Job, *, counted: bool, error: dict[str, Any] | None) -> JobStatus:
    if job.cancel_requested_at is not None:
        _end(session, job, Happening.cancelled)
    elif job.pause_requested_at is not None:
        _rest(session, job, Happening.paused)
        add_event(session, job.id, "The job was paused")
    elif counted and job.attempt >= settings().max_attempts:
        message = f"The job's worker was lost {job.attempt} times without any progress in between."
        _end(session, job, Happening.failed, error=error or LOST | {"message": message})
    else:
        _rest(session, job, Happening.given_back)
        # A crash that repeats at once is given more room each time; progress sets the count back.
        job.next_attempt_at = now() + job.attempt * settings().heartbeat_seconds if counted and job.attempt else None
        ring(session, job.id)
        reason = (error or {}).get("message") or ("its worker was lost" if counted else "its worker is shutting down")
        data = {"reason": (error or {}).get("code") or (LOST["code"] if counted else "worker_stopped")}
        add_event(session, job.id, f"Back in the queue: {reason}", level="warn" if counted or error else "info", data=data)
    session.flush()
    return JobStatus(job.status)


def _rest(session: Session, job: Job, happening: Happening) -> None:
    """No worker has the job any more, and what its last one held of it is free."""
    job.status = after(job.status, happening)
    job.lease_until = None
    _open_chunks(session, job.id, job.lease_token)


def _end(session: Session, job: Job, happening: Happening, *, error: dict[str, Any] | None = None) -> None:
    job.status = status = after(job.status, happening)
    job.error, job.finished_at, job.lease_until = error, now(), None
    session.execute(update(TrainingState).where(TrainingState.job_id == job.id).values(dropped=True))
    if status == JobStatus.succeeded:
        job.adapter_name = adapter_name(job)
        job.progress = {**job.progress, "percent": 100.0}
        job.trained_tokens = _trained_tokens(session, job.id)
        add_event(session, job.id, "The job has successfully completed")
    elif status == JobStatus.cancelled:
        add_event(session, job.id, "The job was cancelled")
    else:
        add_event(session, job.id, f"The job failed: {(error or {}).get('message')}", level="error", data=error)
    session.flush()


def _unasked() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Nobody asked that the job end or rest."""
    return Job.cancel_requested_at.is_(None), Job.pause_requested_at.is_(None)


def _mine(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    running = (Job.id == lease.job_id, Job.status == JobStatus.running)
    return running if lease.helper else (*running, Job.lease_token == lease.token)


def _expired_chunk() -> ColumnElement[bool]:
    return and_(Chunk.status == "leased", Chunk.lease_until < now())


def _open_chunks(session: Session, job_id: str, token: int) -> None:
    held = and_(Chunk.job_id == job_id, Chunk.lease_token == token, Chunk.status == "leased")
    session.execute(update(Chunk).where(held).values(status="open", lease_token=None, lease_until=None))


def _new_token(session: Session) -> int:
    return int(session.execute(insert(Fence).returning(Fence.id)).scalar_one())


def _trained_tokens(session: Session, job_id: str) -> int:
    own = (Stage.job_id == job_id, Stage.status == "done", Stage.taken_from.is_(None))  # what another job trained is its own
    manifests = session.execute(select(Stage.manifest).where(*own)).scalars()
    return sum((manifest or {}).get("summary", {}).get("trained_tokens", 0) for manifest in manifests)

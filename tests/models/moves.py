"""The moves of a worker, each in a transaction of its own."""

from sqlalchemy import func, select

from models.db import transaction
from models.queries import leases, stages
from models.queries.leases import Lease
from models.status import JobStatus

MANIFEST = {"type": "Neighbours", "many": False, "files": {}}
PROPAGATE = "round-1/propagate"


def claim(worker: str = "w1") -> Lease:
    with transaction() as session:
        lease = leases.claim_job(session, worker)
    assert lease is not None
    return lease


def commit(lease: Lease, name: str = "round-1/agree") -> None:
    with transaction() as session:
        stages.commit_stage(session, lease, name, MANIFEST, {}, 0.5)


def end(lease: Lease, status: JobStatus = JobStatus.succeeded) -> JobStatus | None:
    with transaction() as session:
        return leases.finish(session, lease, status, error={"code": "x", "message": "it broke", "param": None})


def release(lease: Lease, *, counted: bool) -> JobStatus | None:
    with transaction() as session:
        return leases.release(session, lease, counted=counted)


def count(table: type, *where: object) -> int:
    with transaction(read_only=True) as session:
        return session.execute(select(func.count()).select_from(table).where(*where)).scalar_one()


def open_stage(lease: Lease, chunks: int = 3) -> None:
    with transaction() as session:
        stages.open_stage(session, lease, PROPAGATE, chunks, chunks * 10)


def claim_chunk(lease: Lease) -> stages.Claimed:
    with transaction() as session:
        return stages.claim_chunk(session, lease, PROPAGATE)

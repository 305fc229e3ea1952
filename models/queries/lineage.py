"""What a job takes from an earlier one: its adapter to go on from, or the outputs of its stages. Earlier jobs never change.

Taking over copies rows that name blobs, never bytes. It happens stage by stage when the runner comes to it, in one
transaction each that first takes hold of the job (leases.hold): a crash between leaves whole stages, and the next run goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.queries.leases import Lease
from models.queries.stages import commit_stage, open_stage
from models.tables import Artifact, Chunk, File, Job, Stage

ADAPTER = "adapter/"  # where a finished job's artefacts hold its adapter
NOT_WEIGHTS = ("README.md", "lineage.json")  # written about the adapter, no part of it


@dataclass(frozen=True, slots=True)
class Start:
    """The adapter to go on from: its files by name (sha256 each), and the labeled files it has learned from."""

    job_id: str
    files: dict[str, str]
    trained_on: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What an earlier job has of a stage: all of it (`done`), or `chunks_done` of its chunks."""

    name: str
    done: bool
    chunks: int | None
    chunks_done: int


def kept_stages(session: Session, job_id: str) -> list[Kept]:
    """Stages of which anything is kept, in the order in which they were opened."""
    done = select(func.count()).where(Chunk.job_id == Stage.job_id, Chunk.stage == Stage.name, Chunk.status == "done")
    rows = session.execute(
        select(Stage.name, Stage.status, Stage.chunks, done.scalar_subquery().label("chunks_done"))
        .where(Stage.job_id == job_id)
        .order_by(Stage.position)
    )
    found = [Kept(row.name, row.status == "done", row.chunks, row.chunks_done) for row in rows]
    return [kept for kept in found if kept.done or kept.chunks_done]


def ancestors(session: Session, tenant_id: str, job_id: str | None) -> list[Job]:
    """The job itself and every job it goes on from, the nearest first."""
    line: list[Job] = []
    while job_id is not None:
        mine = select(Job).where(Job.tenant_id == tenant_id, Job.id == job_id)
        job = session.execute(mine).scalar_one()
        line.append(job)
        job_id = job.from_job
    return line


def labeled_files(session: Session, jobs: Sequence[Job]) -> tuple[File, ...]:
    """The training files of these jobs, each once; deleted ones too, whose bytes are still there."""
    return _files(session, [job.training_file for job in jobs])


def unlabeled_files(session: Session, jobs: Sequence[Job]) -> tuple[File, ...]:
    """The same for their unlabeled files."""
    return _files(session, [job.unlabeled_file for job in jobs if job.unlabeled_file])


def _files(session: Session, named: Sequence[str]) -> tuple[File, ...]:
    ids = dict.fromkeys(named)
    found = {file.id: file for file in session.execute(select(File).where(File.id.in_(ids))).scalars()}
    return tuple(found[file_id] for file_id in ids)


def start_of(session: Session, job: Job) -> Start | None:
    """What `job` goes on from."""
    if job.from_job is None:
        return None
    inside = select(Artifact.path, Artifact.sha256).where(Artifact.job_id == job.from_job, Artifact.path.startswith(ADAPTER))
    files = {row.path.removeprefix(ADAPTER): row.sha256 for row in session.execute(inside.order_by(Artifact.path))}
    weights = {name: sha256 for name, sha256 in files.items() if name not in NOT_WEIGHTS}
    line = ancestors(session, job.tenant_id, job.from_job)
    return Start(job.from_job, weights, labeled_files(session, line))


def take_stage(
    session: Session, lease: Lease, name: str, source: str, manifest: dict[str, Any], payload: Any, seconds: float
) -> dict[str, Any]:
    """Records the output an earlier job has of a stage, as if it had just been made; the manifest that counts."""
    manifest = commit_stage(session, lease, name, manifest, payload, seconds)
    session.execute(update(Stage).where(Stage.job_id == lease.job_id, Stage.name == name).values(taken_from=source))
    return manifest


def earlier_stage(session: Session, source: str, name: str) -> tuple[dict[str, Any], float] | None:
    """(manifest, seconds) of a finished stage that is no mapped one."""
    done = select(Stage.manifest, Stage.seconds).where(Stage.job_id == source, Stage.name == name, Stage.status == "done")
    row = session.execute(done).first()
    return (row.manifest, row.seconds or 0.0) if row and row.manifest is not None else None


def take_chunks(session: Session, lease: Lease, name: str, source: str, chunks: int, items: int) -> bool:
    """Opens a mapped stage with the chunks an earlier job has done. False: it was open already, or was cut otherwise there."""
    here = select(Stage.chunks).where(Stage.job_id == lease.job_id, Stage.name == name)
    there = select(Stage.chunks, Stage.items).where(Stage.job_id == source, Stage.name == name)
    known, cut = session.execute(here).scalar(), session.execute(there).first()
    open_stage(session, lease, name, chunks, items)
    if known is not None or cut is None or tuple(cut) != (chunks, items):
        return False
    done = select(Chunk.number, Chunk.manifest, Chunk.seconds).where(
        Chunk.job_id == source, Chunk.stage == name, Chunk.status == "done"
    )
    rows = session.execute(done.order_by(Chunk.number)).all()
    for row in rows:
        mine = (Chunk.job_id == lease.job_id, Chunk.stage == name, Chunk.number == row.number)
        session.execute(update(Chunk).where(*mine).values(status="done", manifest=row.manifest, seconds=row.seconds))
    values: dict[str, Any] = {"taken_from": source}
    if rows and len(rows) == chunks:
        values |= {"status": "done", "seconds": sum(row.seconds or 0.0 for row in rows), "done_at": now(), "token": lease.token}
    session.execute(update(Stage).where(Stage.job_id == lease.job_id, Stage.name == name).values(values))
    return True


def taken(session: Session, job_id: str, name: str) -> int | None:
    """How many chunks of a stage another job computed, 0 for a stage that is no mapped one; None: this job made it itself."""
    source = session.execute(select(Stage.taken_from).where(Stage.job_id == job_id, Stage.name == name)).scalar()
    if source is None:
        return None
    theirs = (Chunk.job_id == job_id, Chunk.stage == name, Chunk.status == "done", Chunk.runs == 0)
    return session.execute(select(func.count()).select_from(Chunk).where(*theirs)).scalar_one()

"""What a worker needs to know of a job it claimed, in one read."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.queries.lineage import Start, start_of
from models.tables import File, Job

ROLES = {"labeled": "training_file", "unlabeled": "unlabeled_file", "validation": "validation_file", "test": "test_file"}


@dataclass(frozen=True, slots=True)
class JobOrder:
    base_lm: str
    spec: dict[str, Any]
    files: dict[str, File]  # by role; a role without a file is not there
    start: Start | None  # the adapter of the job this one goes on from
    fork: dict[str, Any] | None  # the job whose stages this one uses again, and which


def job_order(session: Session, job_id: str) -> JobOrder:
    job = session.get_one(Job, job_id)
    ids = {role: getattr(job, column) for role, column in ROLES.items() if getattr(job, column)}
    mine = select(File).where(File.tenant_id == job.tenant_id, File.id.in_(ids.values()))
    files = {file.id: file for file in session.execute(mine).scalars()}
    roles = {role: files[file_id] for role, file_id in ids.items()}
    return JobOrder(job.base_lm, job.spec, roles, start_of(session, job), job.fork)

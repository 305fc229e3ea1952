"""The files of a finished adapter, for a worker that is to load it."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from models.queries.lineage import ancestors, labeled_files
from models.status import JobStatus
from models.tables import Artifact, File, Job

FOLDER = "adapter/"


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    base_lm: str
    files: dict[str, str]  # path inside the adapter's folder -> sha256
    trained_on: tuple[File, ...]  # labeled files of its job and of those that job went on from


def adapter_files(session: Session, job_id: str, name: str) -> AdapterFiles | None:
    """The adapter called `name` of the tenant who owns `job_id`; also one that was deleted after the job was accepted."""
    asking = aliased(Job)
    made_by = session.execute(
        select(Job.id, Job.base_lm, Job.tenant_id)
        .join(asking, asking.tenant_id == Job.tenant_id)
        .where(asking.id == job_id, Job.adapter_name == name, Job.status == JobStatus.succeeded)
    ).first()
    if made_by is None:
        return None
    files = select(Artifact.path, Artifact.sha256).where(Artifact.job_id == made_by.id, Artifact.path.startswith(FOLDER))
    weights = {path.removeprefix(FOLDER): sha256 for path, sha256 in session.execute(files)}
    learned = labeled_files(session, ancestors(session, made_by.tenant_id, made_by.id))
    return AdapterFiles(made_by.base_lm, weights, learned)

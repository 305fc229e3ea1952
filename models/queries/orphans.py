"""Which blobs the database names, wherever it does: what else is in the store is nobody's.

Parts of uploads are in rooms of their own (queries/uploads.py), so they are not here.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from models.status import FileStatus
from models.tables import Artifact, Chunk, File, Job, Stage, Tenant, TrainingState

AT_ONCE = 1000  # rows that are held in memory
OF_A_JOB = (Job.training_file, Job.validation_file, Job.unlabeled_file, Job.test_file)
# A deleted file's bytes stay for the jobs that name it: who goes on from such a job compares with them (queries/lineage.py).
_WANTED = or_(
    File.status != FileStatus.deleted,
    select(Job.id).where(Job.tenant_id == File.tenant_id, or_(*(column == File.id for column in OF_A_JOB))).exists(),
)
# Everything that names a blob; tests/worker/test_orphans.py holds these to the columns of all tables.
HASHES: tuple[Select[Any], ...] = (select(File.sha256).where(_WANTED), select(Artifact.sha256))
MANIFESTS: tuple[Select[Any], ...] = tuple(
    select(kind.manifest).where(kind.manifest.is_not(None)) for kind in (Stage, Chunk, TrainingState)
)


def named(session: Session, among: Collection[str]) -> set[str]:
    """Those of `among` (sha256) that a row names. Reads all rows that name any: for a housekeeper, not for a request."""
    left = set(among)
    found: set[str] = set()
    for hashes in HASHES:
        with session.scalars(hashes, execution_options={"yield_per": AT_ONCE}) as rows:
            found |= left.intersection(rows)
    for manifests in MANIFESTS:
        with session.scalars(manifests, execution_options={"yield_per": AT_ONCE}) as rows:
            for manifest in rows:
                found |= left.intersection(entry["sha256"] for entry in manifest["files"].values())
    return found


def beginning(session: Session) -> float:
    """When this database was made, epoch seconds: what was stored before is not its to judge."""
    return float(session.execute(select(func.min(Tenant.created_at))).scalar_one())

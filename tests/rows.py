"""Rows that tests of state and of the worker start from."""

import io
from typing import Any

from sqlalchemy import update

from models.blobs import blobs
from models.db import transaction
from models.queries.files import insert_file
from models.queries.jobs import insert_job
from models.queries.outbox import ring
from models.tables import Job

TENANT = "default"


def add_file(
    content: bytes = b'{"text": "hi", "label": "greeting"}\n', filename: str = "labeled.jsonl", tenant: str = TENANT
) -> str:
    stored = blobs().put(io.BytesIO(content))
    columns = {"purpose": "fine-tune", "status": "processed", "status_details": None, "options": {}, "validation": None}
    with transaction() as session:
        row = insert_file(
            session, tenant, expires_after=None, filename=filename, bytes=stored.bytes, sha256=stored.sha256, **columns
        )
        return str(row["id"])


def add_job(*, spec: dict[str, Any] | None = None, tenant: str = TENANT, **columns: Any) -> str:
    """A queued job, its doorbell in the outbox."""
    training_file = columns.pop("training_file", None) or add_file(tenant=tenant)
    fixed = {"base_lm": "semift-small", "method": {"type": "semi_supervised"}, "job_metadata": {}, "spec": spec or {}}
    with transaction() as session:
        job_id = insert_job(session, tenant, training_file=training_file, **{**fixed, **columns})
        ring(session, job_id)
    return job_id


def get_job(job_id: str) -> Job:
    with transaction(read_only=True) as session:
        return session.get_one(Job, job_id)


def set_job(job_id: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def let_lease_expire(job_id: str) -> None:
    set_job(job_id, lease_until=0.0)

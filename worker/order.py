"""What a runner is told: plain JSON and files, so that it needs neither database nor blob store."""

import os
from pathlib import Path
from typing import Any

from models.blobs import blobs
from models.db import transaction
from models.queries.leases import Lease
from models.queries.orders import job_order
from models.settings import settings


class LmGone(Exception):
    """The job's language model is no longer among those the operator offers."""

    def __init__(self, name: str) -> None:
        known = ", ".join(sorted(settings().base_lms))
        super().__init__(f"This worker has no language model {name!r}; it has {known}.")


def write_order(lease: Lease, scratch: Path) -> dict[str, Any]:
    """Fetches the job's files into `scratch` and says where everything is. Raises BlobError and LmGone."""
    with transaction(read_only=True) as session:
        job = job_order(session, lease.job_id)
    here = settings()
    if job.base_lm not in here.base_lms:
        raise LmGone(job.base_lm)
    files = {}
    for role, file in job.files.items():
        path = scratch / "files" / role
        blobs().fetch(file.sha256, path)
        files[role] = {"path": str(path), "filename": file.filename, "options": file.options}
    return {
        "job": lease.job_id,
        "assist": lease.helper,
        "worker_pid": os.getpid(),
        "scratch": str(scratch),
        "spec": job.spec,
        "files": files,
        "base": here.base_lms[job.base_lm],
        "name": job.base_lm,
        "cache": str(here.data_dir.resolve() / "lms"),
        "device": here.device,
        "threads": here.threads,
    }

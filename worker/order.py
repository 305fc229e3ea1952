"""What a runner is told: plain JSON and files, so that it needs neither database nor blob store."""

import os
from pathlib import Path
from typing import Any

from models.blobs import blobs
from models.db import transaction
from models.queries.leases import Lease
from models.queries.orders import job_order
from models.settings import settings
from worker.places import fetched, lm_cache, lm_place, places


def write_order(lease: Lease, scratch: Path) -> dict[str, Any]:
    """Fetches the job's files into `scratch` and says where everything is. Raises BlobError and NotHere."""
    with transaction(read_only=True) as session:
        job = job_order(session, lease.job_id)
    here = settings()
    base = lm_place(job.base_lm)
    files = {role: fetched(file, scratch / "files" / role) for role, file in job.files.items()}
    start = None
    if job.start:
        for name, sha256 in job.start.files.items():
            blobs().fetch(sha256, scratch / "start" / name)
        learned = [fetched(file, scratch / "files" / f"earlier-{n}") for n, file in enumerate(job.start.trained_on)]
        start = {"job": job.start.job_id, "path": str(scratch / "start"), "trained_on": learned}
    return {
        "job": lease.job_id,
        "token": lease.token,
        "tenant": lease.tenant,  # for the log
        "assist": lease.helper,
        "checkpoints": {"seconds": here.checkpoint_seconds, "steps": here.checkpoint_steps},
        "worker_pid": os.getpid(),
        "scratch": str(scratch),
        "spec": job.spec,
        "files": files,
        "start": start,
        "fork": job.fork,
        "outside": places(lease.job_id, job.spec, scratch),
        "base": base,
        "name": job.base_lm,
        "cache": str(lm_cache()),
        "device": here.device,
        "threads": here.threads,
    }

"""A job's artefacts under file ids, so that the stock client downloads them: files.content(job.result_files[0]).

The id holds the job and the path, so there is no second table to keep in step: `file-result-` + base64url("ftjob-…/path").
"""

import base64
import binascii

from sqlalchemy import RowMapping

from api.errors import NotFound
from api.files.schemas import RESULT_PURPOSE, FileObject
from models.db import transaction
from models.queries import evidence, jobs

PREFIX = "file-result-"


def result_id(job_id: str, path: str) -> str:
    return PREFIX + base64.urlsafe_b64encode(f"{job_id}/{path}".encode()).decode().rstrip("=")


def is_result(file_id: str) -> bool:
    return file_id.startswith(PREFIX)


def artifact(tenant_id: str, file_id: str) -> RowMapping:
    """The artefact behind a result's file id. Raises NotFound for one of another tenant, as for none."""
    job_id, path = _decode(file_id)
    with transaction(tenant=tenant_id, read_only=True) as session:
        mine = jobs.get_job(session, tenant_id, job_id) is not None
        row = evidence.get_artifact(session, tenant_id, job_id, path) if mine else None
    if row is None:
        raise NotFound("No such result file.", code="file_not_found", param="file_id", hint="See result_files of the job.")
    return row


def as_file(tenant_id: str, file_id: str) -> FileObject:
    row = artifact(tenant_id, file_id)
    return FileObject(
        id=file_id,
        bytes=row["bytes"],
        created_at=int(row["created_at"]),
        filename=row["path"].rpartition("/")[2],
        purpose=RESULT_PURPOSE,
        status="processed",
        sha256=row["sha256"],
    )


def _decode(file_id: str) -> tuple[str, str]:
    packed = file_id.removeprefix(PREFIX)
    try:
        job_id, _, path = (
            base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True).decode().partition("/")
        )
    except (binascii.Error, ValueError):
        return "", ""
    return ("", "") if "\x00" in job_id + path else (job_id, path)

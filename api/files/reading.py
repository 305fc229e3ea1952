"""Reads uploads that were too large to validate while their uploader waited: a thread of
background.py calls `look`, the database is its queue.

A file left `uploaded` by a crash is read at the next start. Two API processes may read one file twice: the report is the
same, and only the first is recorded.
"""

from typing import Any

from models.blobs import BlobError, blobs
from models.db import transaction
from models.queries import files
from models.status import FileStatus
from worker.semisup.errors import SemisupError
from worker.semisup.ingest.findings import IngestOptions
from worker.semisup.ingest.validate import validate


def report_on(sha256: str, filename: str, options: dict[str, Any]) -> dict[str, Any]:
    """The columns that say what is in a file: status, status_details, validation."""
    with blobs().open(sha256) as file:
        found = validate(file, filename, IngestOptions.of(options))
    report = found.model_dump(mode="json")
    if found.ok:
        return {"status": FileStatus.processed, "status_details": None, "validation": report}
    first, total = found.errors[0], sum(found.error_counts.values())
    where = f"line {first.line}: " if first.line else ""
    more = f" ({total - 1} more findings)" if total > 1 else ""
    details = f"{first.code}: {where}{first.message}{more}"
    return {"status": FileStatus.error, "status_details": details, "validation": report}


def look() -> None:
    """Reads what waits, and retires what expired and no job reads."""
    with transaction(read_only=True) as session:
        waiting, expired = files.unread_files(session), files.expired_files(session)
    for row in expired:
        with transaction() as session:
            if not files.open_jobs_using(session, row["id"]):
                files.delete_file(session, row["id"])
    for row in waiting:
        _read(row["id"], row["sha256"], row["filename"], row["options"])


def _read(file_id: str, sha256: str, filename: str, options: dict[str, Any]) -> None:
    try:
        columns = report_on(sha256, filename, options)
    except (SemisupError, BlobError) as error:
        columns = {"status": FileStatus.error, "status_details": str(error), "validation": None}
    with transaction() as session:
        files.record_validation(
            session, file_id, status=columns["status"], details=columns["status_details"], report=columns["validation"]
        )

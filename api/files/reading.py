"""Reads uploads that were too large to validate while their uploader waited: a thread of
background.py calls `look`, the database is its queue.

A file left `uploaded` by a crash is read at the next start. Two API processes may read one file twice: the report is the
same, and only the first is recorded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from api.errors import Unavailable
from models.blobs import BlobError
from models.db import EVERYONE, transaction
from models.queries import files
from models.queries.results import storable
from models.status import FileStatus
from worker import parsing
from worker.semisup.errors import SemisupError


def report_on(sha256: str, filename: str, options: dict[str, Any]) -> dict[str, Any]:
    """The columns that say what is in a file: status, status_details, validation. Raises ReaderAway: then it is read later."""
    found = parsing.report(parsing.Source(sha256, filename, options))
    report = storable(found.model_dump(mode="json"))
    if found.ok:
        return {"status": FileStatus.processed, "status_details": None, "validation": report}
    first, total = found.errors[0], sum(found.error_counts.values())
    where = f"line {first.line}: " if first.line else ""
    more = f" ({total - 1} more findings)" if total > 1 else ""
    details = f"{first.code}: {where}{first.message}{more}"
    return {"status": FileStatus.error, "status_details": storable(details), "validation": report}


@contextmanager
def readers_wanted() -> Iterator[None]:
    """For requests that cannot be answered without reading a file."""
    try:
        yield
    except parsing.ReaderAway:
        raise Unavailable(
            "No file can be read at the moment.",
            code="reader_unavailable",
            hint="Retry shortly.",
            headers={"retry-after": "1"},
        ) from None


def look() -> None:
    """Reads what waits, and retires what expired and no job reads."""
    with transaction(tenant=EVERYONE, read_only=True) as session:
        waiting, expired = files.unread_files(session), files.expired_files(session)
    for row in expired:
        with transaction(tenant=EVERYONE) as session:
            if not files.open_jobs_using(session, row["tenant_id"], row["id"]):
                files.delete_file(session, row["tenant_id"], row["id"])
    for row in waiting:
        _read(row["id"], row["sha256"], row["filename"], row["options"])


def _read(file_id: str, sha256: str, filename: str, options: dict[str, Any]) -> None:
    try:
        columns = report_on(sha256, filename, options)
    except (SemisupError, BlobError) as error:
        columns = {"status": FileStatus.error, "status_details": str(error), "validation": None}
    with transaction(tenant=EVERYONE) as session:
        files.record_validation(
            session, file_id, status=columns["status"], details=columns["status_details"], report=columns["validation"]
        )

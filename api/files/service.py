"""Files: bytes into the blob store, a row for what they are. Transactions are short: none is open while bytes move."""

from typing import Any, NamedTuple

from sqlalchemy import RowMapping

from api import background
from api.deps import Caller, PageAsked
from api.errors import BadRequest, Conflict, NotFound
from api.files import results
from api.files.form import Upload
from api.files.reading import report_on
from api.files.schemas import FileObject, FilePreview, FileValidation, file_object
from api.middleware import file_too_large
from api.wire import Deleted, ListOf, list_of
from models.blobs import blobs
from models.db import transaction
from models.queries import files
from models.settings import settings
from models.status import FileStatus
from worker.semisup.ingest.findings import IngestOptions
from worker.semisup.ingest.validate import preview as ingest_preview


class Content(NamedTuple):
    sha256: str
    bytes: int
    filename: str


def create(caller: Caller, upload: Upload) -> FileObject:
    """Stores the bytes, then the row. Small files answer validated; large ones `uploaded`, and are read in the background."""
    stored = blobs().put(upload.file)
    if stored.bytes > settings().max_file_bytes:
        raise file_too_large(settings().max_file_bytes)
    values: dict[str, Any] = {"filename": upload.filename, "options": upload.dataset, "sha256": stored.sha256}
    if stored.bytes <= settings().inline_validation_bytes:
        values |= report_on(stored.sha256, upload.filename, upload.dataset)
    else:
        values |= {"status": FileStatus.uploaded, "status_details": None, "validation": None}
    with transaction() as session:
        row = files.insert_file(
            session,
            caller.tenant_id,
            expires_after=upload.expires_after,
            purpose=upload.purpose,
            bytes=stored.bytes,
            **values,
        )
    if row["status"] == FileStatus.uploaded:
        background.read_files()
    return file_object(row)


def listing(caller: Caller, purpose: str | None, asked: PageAsked) -> ListOf[FileObject]:
    with transaction(read_only=True) as session:
        page = files.page_files(session, caller.tenant_id, purpose=purpose, **asked._asdict())
    return list_of([file_object(row) for row in page.rows], page.has_more)


def retrieve(caller: Caller, file_id: str) -> FileObject:
    if results.is_result(file_id):
        return results.as_file(caller.tenant_id, file_id)
    return file_object(_row(caller, file_id))


def delete(caller: Caller, file_id: str) -> Deleted:
    """Raises Conflict while a job that is not finished reads the file."""
    if results.is_result(file_id):
        raise BadRequest(
            f"{file_id!r} is a result of a job and stays with it.",
            code="not_deletable",
            param="file_id",
            hint="Delete the model instead.",
        )
    with transaction() as session:
        if files.lock_file(session, caller.tenant_id, file_id) is None:
            raise _no_file(file_id)
        using = files.open_jobs_using(session, file_id)
        if using:
            raise Conflict(
                f"The file is in use by {', '.join(using[:5])}.",
                code="file_in_use",
                hint="Cancel the job, or wait until it ends.",
            )
        files.delete_file(session, file_id)
    return Deleted(id=file_id, object="file")


def content(caller: Caller, file_id: str) -> Content:
    if results.is_result(file_id):
        row = results.artifact(caller.tenant_id, file_id)
        return Content(row["sha256"], row["bytes"], row["path"].rpartition("/")[2])
    row = _row(caller, file_id)
    return Content(row["sha256"], row["bytes"], row["filename"])


def validation(caller: Caller, file_id: str) -> FileValidation:
    row = _row(caller, file_id)
    unread = {"status": "pending" if row["status"] == FileStatus.uploaded else "failed"}
    return FileValidation.model_validate({**(row["validation"] or unread), "id": row["id"]})


def preview(caller: Caller, file_id: str, limit: int, offset: int) -> FilePreview:
    """The first rows as they are and as they are understood. Raises DataError where the file cannot be read at all."""
    row = _row(caller, file_id)
    with blobs().open(row["sha256"]) as file:
        shown = ingest_preview(file, row["filename"], IngestOptions.of(row["options"]), limit, offset)
    return FilePreview.model_validate({**shown.model_dump(mode="json"), "id": row["id"]})


def _row(caller: Caller, file_id: str) -> RowMapping:
    with transaction(read_only=True) as session:
        row = files.get_file(session, caller.tenant_id, file_id)
    if row is None:
        raise _no_file(file_id)
    return row


def _no_file(file_id: str) -> NotFound:
    shown = file_id[:64].encode("ascii", "backslashreplace").decode()
    return NotFound(f"No file '{shown}'.", code="file_not_found", param="file_id", hint="GET /v1/files lists yours.")

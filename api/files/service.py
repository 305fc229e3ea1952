"""Files: bytes into the blob store, a row for what they are. Transactions are short: none is open while bytes move."""

import hashlib
import os
from contextlib import suppress
from typing import Any, NamedTuple

from fastapi import Response
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from api import background, limits
from api.deps import Caller, PageAsked
from api.errors import BadRequest, Conflict, NotFound
from api.files import results
from api.files.form import Upload
from api.files.reading import readers_wanted, report_on
from api.files.schemas import FileObject, FilePreview, FileValidation, file_object
from api.middleware import file_too_large
from api.once import Once, Ticket
from api.wire import Deleted, ListOf, list_of
from models.blobs import blobs
from models.db import transaction
from models.queries import files
from models.settings import settings
from models.status import FileStatus
from worker import parsing


class Content(NamedTuple):
    sha256: str
    bytes: int
    filename: str


def create(caller: Caller, upload: Upload, once: Once) -> FileObject | Response:
    """Stores the bytes, then the row. Small files answer validated; large ones `uploaded`, and are read in the background."""
    size = upload.file.seek(0, os.SEEK_END)
    if size > settings().max_file_bytes:
        raise file_too_large(settings().max_file_bytes)
    upload.file.seek(0)
    given = {**vars(upload), "file": hashlib.file_digest(upload.file, "sha256").hexdigest()}  # type: ignore[arg-type]
    return once.run(caller, "createFile", given, lambda ticket: _create(caller, upload, size, ticket))


def _create(caller: Caller, upload: Upload, size: int, ticket: Ticket) -> FileObject:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:  # what is refused must not have been stored
        limits.check_bytes(session, caller.tenant_id, size)
    upload.file.seek(0)
    columns = stored(upload)
    with transaction(tenant=caller.tenant_id) as session:
        ticket.take(session)
        limits.check_bytes(session, caller.tenant_id, columns["bytes"], hold=True)
        row = record(session, caller, upload, columns)
        ticket.answer(session, file_object(row))
    read_soon(row)
    return file_object(row)


def stored(upload: Upload) -> dict[str, Any]:
    """Stores what `upload.file` has left, and reads it if it is small: what `record` wants to know of it."""
    blob = blobs().put(upload.file)
    columns: dict[str, Any] = {"sha256": blob.sha256, "bytes": blob.bytes}
    columns |= {"status": FileStatus.uploaded, "status_details": None, "validation": None}
    if blob.bytes <= settings().inline_validation_bytes:
        with suppress(parsing.ReaderAway):  # then it is read later, as a large one
            columns |= report_on(blob.sha256, upload.filename, upload.dataset)
    return columns


def record(session: Session, caller: Caller, upload: Upload, columns: dict[str, Any]) -> RowMapping:
    """The row of a file whose bytes are stored; whether there is room for it is checked by the caller."""
    told = {"filename": upload.filename, "options": upload.dataset, "purpose": upload.purpose}
    return files.insert_file(session, caller.tenant_id, expires_after=upload.expires_after, **told, **columns)


def read_soon(row: RowMapping) -> None:
    """Call it after the row was committed."""
    if row["status"] == FileStatus.uploaded:
        background.read_files()


def listing(caller: Caller, purpose: str | None, asked: PageAsked) -> ListOf[FileObject]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        page = files.page_files(session, caller.tenant_id, purpose=purpose, **asked._asdict())
    return list_of([file_object(row) for row in page.rows], page.has_more)


def retrieve(caller: Caller, file_id: str) -> FileObject:
    if results.is_result(file_id):
        return results.as_file(caller.tenant_id, file_id)
    return file_object(_row(caller, file_id))


def delete(caller: Caller, file_id: str) -> Deleted:
    """Raises Conflict while a job that is not finished reads the file, BadRequest for a job's result."""
    if results.is_result(file_id):
        results.artifact(caller.tenant_id, file_id)
        raise BadRequest(
            f"{file_id!r} is a result of a job and stays with it.",
            code="not_deletable",
            param="file_id",
            hint="Delete the model instead.",
        )
    with transaction(tenant=caller.tenant_id) as session:
        if files.lock_file(session, caller.tenant_id, file_id) is None:
            raise _no_file(file_id)
        using = files.open_jobs_using(session, caller.tenant_id, file_id)
        if using:
            raise Conflict(
                f"The file is in use by {', '.join(using[:5])}.",
                code="file_in_use",
                hint="Cancel the job, or wait until it ends.",
            )
        files.delete_file(session, caller.tenant_id, file_id)
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
    with readers_wanted():
        shown = parsing.page(parsing.Source(row["sha256"], row["filename"], row["options"]), limit, offset)
    return FilePreview.model_validate({**shown.model_dump(mode="json"), "id": row["id"]})


def _row(caller: Caller, file_id: str) -> RowMapping:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        row = files.get_file(session, caller.tenant_id, file_id)
    if row is None:
        raise _no_file(file_id)
    return row


def _no_file(file_id: str) -> NotFound:
    shown = file_id[:64].encode("ascii", "backslashreplace").decode()
    return NotFound(f"No file '{shown}'.", code="file_not_found", param="file_id", hint="GET /v1/files lists yours.")

"""Uploads in parts: each part a blob in the upload's own room of the store, the file made of them as any upload is.

No transaction is open while bytes move. The row decides: what a part, a completion and a cancellation at once come to is
settled by who holds it first, and the file is there from the commit on that ends the upload, or not at all. Bytes that a crash
leaves in the room of an upload that has ended, the housekeeper removes (worker/orphans.py).
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, NoReturn

from fastapi import Response
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from api import limits
from api.deps import Caller
from api.errors import BadRequest, Conflict, NotFound
from api.files import service as files_service
from api.files.form import Upload, clean_name
from api.middleware import file_too_large, part_too_large
from api.once import Once, Ticket
from api.problems import checked
from api.uploads.joined import Joined
from api.uploads.schemas import (
    MAX_PARTS,
    UploadComplete,
    UploadCreate,
    UploadObject,
    UploadPartObject,
    part_object,
    status_of,
    upload_object,
)
from models.blobs import BlobMissing, blobs
from models.crash import crash_point
from models.db import transaction
from models.queries import files, uploads
from models.settings import settings
from models.status import UploadStatus
from worker.semisup.ingest.findings import IngestOptions


def create(caller: Caller, body: Mapping[str, Any], once: Once) -> UploadObject | Response:
    """Speaks for room, within the quota, for an hour."""
    asked, limit = checked(UploadCreate, body), settings().max_file_bytes
    if asked.bytes > limit:
        raise file_too_large(limit, "bytes")
    columns = {
        "bytes": asked.bytes,
        "filename": clean_name(asked.filename),
        "purpose": asked.purpose,
        "options": IngestOptions.of(asked.dataset).model_dump(mode="json", exclude_defaults=True),
        "expires_after": asked.expires_after and float(asked.expires_after.seconds),
    }

    def make(ticket: Ticket) -> UploadObject:
        with transaction(tenant=caller.tenant_id) as session:
            ticket.take(session)
            limits.check_bytes(session, caller.tenant_id, asked.bytes, hold=True)
            row = uploads.insert_upload(session, caller.tenant_id, seconds=settings().upload_seconds, **columns)
            made = upload_object(row)
            ticket.answer(session, made)
        return made

    return once.run(caller, "createUpload", body, make)


def check_known(caller: Caller, upload_id: str) -> None:
    """Raises NotFound."""
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        _known(uploads.get_upload(session, caller.tenant_id, upload_id), upload_id)


def check_pending(caller: Caller, upload_id: str) -> None:
    """Raises NotFound, or Conflict for an upload that has ended."""
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        _pending(_known(uploads.get_upload(session, caller.tenant_id, upload_id), upload_id))


def add_part(caller: Caller, upload_id: str, data: BinaryIO, once: Once) -> UploadPartObject | Response:
    """The same bytes sent twice are two parts, and count once."""
    size = data.seek(0, os.SEEK_END)
    if not size:
        raise BadRequest("The part is empty.", code="invalid_value", param="data", hint="Send at least one byte.")
    if size > settings().max_part_bytes:
        raise part_too_large(settings().max_part_bytes)
    data.seek(0)
    sha256 = hashlib.file_digest(data, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO lacks readinto

    def make(ticket: Ticket) -> UploadPartObject:
        with transaction(tenant=caller.tenant_id, read_only=True) as session:  # what is refused must not have been stored
            _check_room(session, _still_pending(session, caller, upload_id), sha256, size)
        data.seek(0)
        with _bytes_of(caller, upload_id):
            blobs().room(upload_id).put(data)
        crash_point("upload.part_stored")
        with transaction(tenant=caller.tenant_id) as session:
            ticket.take(session)
            row = _pending(_known(uploads.lock_upload(session, caller.tenant_id, upload_id), upload_id))
            _check_room(session, row, sha256, size)
            made = part_object(uploads.insert_part(session, row, bytes=size, sha256=sha256))
            ticket.answer(session, made)
        return made

    return once.run(caller, "addUploadPart", {"upload": upload_id, "sha256": sha256}, make)


def complete(caller: Caller, upload_id: str, body: Mapping[str, Any], once: Once) -> UploadObject | Response:
    """Makes the file of its parts. Of an upload that is completed it changes nothing."""
    asked = checked(UploadComplete, body)
    given = {"upload": upload_id, **body}
    return once.run(caller, "completeUpload", given, lambda ticket: _complete(caller, upload_id, asked, ticket))


def _complete(caller: Caller, upload_id: str, asked: UploadComplete, ticket: Ticket) -> UploadObject:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        row = _known(uploads.get_upload(session, caller.tenant_id, upload_id), upload_id)
        if row["status"] == UploadStatus.completed:
            return _completed(session, caller, row)
        chosen = _chosen(_pending(row), uploads.parts(session, row), asked.part_ids)
    with _bytes_of(caller, upload_id):
        if asked.md5 is not None:
            _check_md5(_joined(upload_id, chosen), asked.md5)
        with closing(_joined(upload_id, chosen)) as whole:
            told = {"filename": row["filename"], "purpose": row["purpose"], "dataset": row["options"]}
            upload = Upload(file=whole, expires_after=row["expires_after"], **told)
            columns = files_service.stored(upload)
    crash_point("upload.joined")
    with transaction(tenant=caller.tenant_id) as session:
        ticket.take(session)
        held = _known(uploads.lock_upload(session, caller.tenant_id, upload_id), upload_id)
        if held["status"] == UploadStatus.completed:
            return _completed(session, caller, held)
        if held["status"] != UploadStatus.pending:
            _ended(held)
        file = files_service.record(session, caller, upload, columns)  # its room was spoken for when the upload was made
        made = upload_object(uploads.end_upload(session, held, UploadStatus.completed, file["id"]), file)
        ticket.answer(session, made)
        crash_point("upload.before_commit")
    crash_point("upload.after_commit")
    blobs().room(upload_id).clear()
    files_service.read_soon(file)
    return made


def cancel(caller: Caller, upload_id: str) -> UploadObject:
    """Idempotent. Raises Conflict for an upload that ended otherwise."""
    with transaction(tenant=caller.tenant_id) as session:
        row = _known(uploads.lock_upload(session, caller.tenant_id, upload_id), upload_id)
        if row["status"] != UploadStatus.cancelled:
            row = uploads.end_upload(session, _pending(row), UploadStatus.cancelled)
    blobs().room(upload_id).clear()
    return upload_object(row)


def _known(row: RowMapping | None, upload_id: str) -> RowMapping:
    if row is None:
        shown = upload_id[:64].encode("ascii", "backslashreplace").decode()
        hint = "Begin one: POST /v1/uploads."
        raise NotFound(f"No upload '{shown}'.", code="upload_not_found", param="upload_id", hint=hint)
    return row


def _pending(row: RowMapping) -> RowMapping:
    if status_of(row) != UploadStatus.pending:
        _ended(row)
    return row


def _ended(row: RowMapping) -> NoReturn:
    status = status_of(row)
    hint = "Its file is a file like any other." if status == UploadStatus.completed else "Begin a new one: POST /v1/uploads."
    raise Conflict(
        f"The upload {'has' if status == 'expired' else 'is'} {status.value}.", code="invalid_state", param="status", hint=hint
    )


def _still_pending(session: Session, caller: Caller, upload_id: str) -> RowMapping:
    return _pending(_known(uploads.get_upload(session, caller.tenant_id, upload_id), upload_id))


@contextmanager
def _bytes_of(caller: Caller, upload_id: str) -> Iterator[None]:
    """Where a room is cleared under our hands, the end of the upload is what is told."""
    try:
        yield
    except (BlobMissing, FileNotFoundError):
        check_pending(caller, upload_id)
        raise


def _check_room(session: Session, row: RowMapping, sha256: str, size: int) -> None:
    """The parts may not hold more than the file will, each content counted once: what is sent again is stored once."""
    before = uploads.parts(session, row)
    sizes = {part["sha256"]: part["bytes"] for part in before} | {sha256: size}
    if (total := sum(sizes.values())) > row["bytes"]:
        raise BadRequest(
            f"With this one the parts have {total} bytes; the upload was announced with {row['bytes']}.",
            code="bytes_mismatch",
            param="data",
            hint="Begin a new upload with the size of the whole file.",
        )
    if len(before) >= MAX_PARTS:
        hint = "Send larger parts."
        raise BadRequest(f"An upload has at most {MAX_PARTS} parts.", code="out_of_range", param="data", hint=hint)


def _chosen(row: RowMapping, stored: Sequence[RowMapping], part_ids: Sequence[str]) -> list[RowMapping]:
    by_id = {part["id"]: part for part in stored}
    if strange := [part_id for part_id in part_ids if part_id not in by_id]:
        shown = strange[0][:64].encode("ascii", "backslashreplace").decode()
        hint = "Give the ids that adding the parts was answered with."
        raise BadRequest(f"The upload has no part '{shown}'.", code="part_not_found", param="part_ids", hint=hint)
    if len(set(part_ids)) < len(part_ids):
        hint = "Name every part once, in the order of the file."
        raise BadRequest("A part is named twice.", code="invalid_value", param="part_ids", hint=hint)
    chosen = [by_id[part_id] for part_id in part_ids]
    if (total := sum(part["bytes"] for part in chosen)) != row["bytes"]:
        raise BadRequest(
            f"The {len(chosen)} parts have {total} bytes; the upload was announced with {row['bytes']}.",
            code="bytes_mismatch",
            param="part_ids",
            hint="Add the part that is missing, or leave out the one too many.",
        )
    return chosen


def _joined(upload_id: str, parts: Sequence[RowMapping]) -> io.BufferedReader:
    return io.BufferedReader(Joined(blobs().room(upload_id), [part["sha256"] for part in parts]))


def _check_md5(whole: io.BufferedReader, wanted: str) -> None:
    """Before anything is stored: other bytes than were meant shall leave nothing."""
    with closing(whole):
        found = hashlib.file_digest(whole, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != wanted.lower():
        raise BadRequest(
            f"The parts together have the MD5 {found}, not {wanted.lower()}.",
            code="checksum_mismatch",
            param="md5",
            hint="Compare the order of part_ids; or send the parts again in a new upload.",
        )


def _completed(session: Session, caller: Caller, row: RowMapping) -> UploadObject:
    return upload_object(row, files.get_file(session, caller.tenant_id, row["file_id"]))

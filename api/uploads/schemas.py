"""Uploads in parts on the wire: OpenAI's objects."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping

from api.files.form import ExpiresAfter
from api.files.schemas import FileObject, Purpose, file_object
from models.status import UploadStatus

MAX_PARTS = 5000


class UploadCreate(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    bytes: int = Field(ge=1, description="Of the whole file. Its parts must have as many when they are put together.")
    filename: str = Field(min_length=1, max_length=1024, description="Shown; its extension is a hint at the format.")
    mime_type: str = Field(min_length=1, max_length=255, description="As OpenAI wants it; the content decides.")
    purpose: Purpose
    expires_after: ExpiresAfter | None = Field(None, description="Of the file, not of the upload.")
    dataset: dict[str, Any] | None = Field(None, description="What there is to say of the data: format, mapping, labels, role.")


class UploadComplete(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    part_ids: Annotated[list[str], Field(min_length=1, max_length=MAX_PARTS)] = Field(description="In the order of the file.")
    md5: str | None = Field(None, pattern=r"^[0-9a-fA-F]{32}$", description="Of the whole file, as 32 hex digits.")


class UploadObject(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = Field(None, description="Once the upload is completed.")


class UploadPartObject(BaseModel):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
    bytes: int


def status_of(row: RowMapping) -> UploadStatus:
    """A pending upload has expired at its time, whenever somebody comes to write it down."""
    return UploadStatus.expired if row["status"] == UploadStatus.pending and row["late"] else UploadStatus(row["status"])


def upload_object(row: RowMapping, file: RowMapping | None = None) -> UploadObject:
    return UploadObject(
        id=row["id"],
        bytes=row["bytes"],
        created_at=int(row["created_at"]),
        expires_at=int(row["expires_at"]),
        filename=row["filename"],
        purpose=row["purpose"],
        status=status_of(row).value,
        file=None if file is None else file_object(file),
    )


def part_object(row: RowMapping) -> UploadPartObject:
    return UploadPartObject(id=row["id"], created_at=int(row["created_at"]), upload_id=row["upload_id"], bytes=row["bytes"])

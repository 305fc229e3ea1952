"""Files on the wire: OpenAI's object, with what was found in the file beside it."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import RowMapping

Purpose = Literal["fine-tune", "user_data"]
PURPOSES: tuple[Purpose, ...] = ("fine-tune", "user_data")
RESULT_PURPOSE = "fine-tune-results"


class Contents(BaseModel):
    """What validation found; the whole of it is at /v1/files/{id}/validation."""

    format: str | None
    rows: int
    labeled: int
    unlabeled: int


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str = Field(description="uploaded (being read), processed, or error.")
    status_details: str | None = None
    expires_at: int | None = None
    sha256: str
    dataset: dict[str, Any] | None = Field(None, description="What the uploader said about the data.")
    contents: Contents | None = None


class FileValidation(BaseModel):
    """The report on a file: every finding with its line and fix, up to 1000, and counts of all of them."""

    model_config = {"extra": "allow"}

    id: str
    object: Literal["file.validation"] = "file.validation"
    status: Literal["pending", "ok", "failed"]


class FilePreview(BaseModel):
    model_config = {"extra": "allow"}

    id: str
    object: Literal["file.preview"] = "file.preview"


def file_object(row: RowMapping) -> FileObject:
    found = row["validation"]
    return FileObject(
        id=row["id"],
        bytes=row["bytes"],
        created_at=int(row["created_at"]),
        filename=row["filename"],
        purpose=row["purpose"],
        status=row["status"],
        status_details=row["status_details"],
        expires_at=None if row["expires_at"] is None else int(row["expires_at"]),
        sha256=row["sha256"],
        dataset=row["options"] or None,
        contents=Contents(**{key: found[key] for key in Contents.model_fields}) if found else None,
    )

"""What is wrong with a file, and what is in it: `validate` for every row in constant memory, `preview` for a few."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, Field

from worker.semisup.ingest.columns import Mapped
from worker.semisup.ingest.findings import Finding, Format, IngestOptions
from worker.semisup.ingest.seen import Seen
from worker.semisup.ingest.tally import Stats, Tally
from worker.semisup.ingest.upload import Upload

MAX_PREVIEW_CHARS = 2000  # of one text in a preview


class Validation(BaseModel):
    """The report on one file, as `files.validation` stores it."""

    status: Literal["ok", "failed"]
    format: Format | None
    layout: str | None = Field(description="chat, prompt_completion, question_answer, …; mapped where the uploader said.")
    columns: list[str]
    mapping: dict[str, str | None]
    rows: int
    labeled: int
    unlabeled: int
    errors: list[Finding] = Field(description="The first 1000.")
    error_counts: dict[str, int] = Field(description="All of them, by code.")
    warnings: list[Finding]
    stats: Stats
    sha256: str
    bytes: int

    @property
    def ok(self) -> bool:
        return self.status == "ok"


class PreviewRow(BaseModel):
    line: int | None
    raw: dict[str, Any] | None
    mapped: dict[str, Any] | None = Field(
        description="id, messages, options, response, answer; null where the row has an error."
    )
    error: Finding | None


class Preview(BaseModel):
    format: Format | None
    layout: str | None
    mapping: dict[str, str | None]
    rows: list[PreviewRow]
    has_more: bool


def validate(
    file: BinaryIO, filename: str, options: Mapping[str, Any] | IngestOptions | None = None, *, max_rows: int = 0
) -> Validation:
    """Reads all of `file` (seekable, from its start) twice. Bad data never raises; bad `options` raise SpecError.

    A file with more than `max_rows` rows is read up to there and has failed; 0: no limit.
    """
    told = IngestOptions.of(options)
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO lacks readinto
    size = file.seek(0, 2)
    upload = Upload(file, filename, told, "row", max_rows=max_rows)
    tally = Tally(told)
    with Seen() as seen:
        for _, row in upload:
            if isinstance(row, Finding):
                tally.refuse(row)
            else:
                tally.add(row, seen, upload.id_column)
    return Validation(
        status="failed" if tally.error_counts else "ok",
        format=upload.format,
        layout=upload.layout.name if upload.layout else None,
        columns=list(upload.columns),
        mapping=upload.mapping(),
        rows=upload.rows,
        labeled=tally.labeled,
        unlabeled=tally.unlabeled,
        errors=tally.errors,
        error_counts=dict(tally.error_counts),
        warnings=tally.warnings(),
        stats=tally.stats(),
        sha256=sha256,
        bytes=size,
    )


def preview(
    file: BinaryIO, filename: str, options: Mapping[str, Any] | IngestOptions | None = None, limit: int = 20, offset: int = 0
) -> Preview:
    """Rows `offset` to `offset + limit` as they were read and as they are understood; long texts are cut."""
    upload = Upload(file, filename, IngestOptions.of(options), "row")
    shown: list[PreviewRow] = []
    has_more = False
    for number, (row, mapped) in enumerate(upload):
        if number < offset:
            continue
        if len(shown) == limit:
            has_more = True
            break
        error = mapped if isinstance(mapped, Finding) else None
        shown.append(
            PreviewRow(
                line=row.line if row else error.line if error else None,
                raw=_cut(row.values) if row else None,
                mapped=_cut(_shown(mapped)) if isinstance(mapped, Mapped) else None,
                error=error,
            )
        )
    return Preview(
        format=upload.format,
        layout=upload.layout.name if upload.layout else None,
        mapping=upload.mapping(),
        rows=shown,
        has_more=has_more,
    )


def _shown(row: Mapped) -> dict[str, Any]:
    return {**asdict(row.query), "response": row.response, "answer": row.answer}


def _cut(value: Any) -> Any:
    """`value` as JSON can hold it, texts cut to MAX_PREVIEW_CHARS."""
    if isinstance(value, Mapping):
        return {str(key): _cut(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(item) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_PREVIEW_CHARS else text[:MAX_PREVIEW_CHARS] + "…"

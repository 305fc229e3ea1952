"""The multipart body of an upload, read into an `Upload`: known fields only, bracket keys unfolded, the file spooled on disk.

The stock client flattens nested extra fields: `dataset[mapping][input]=q`, `expires_after[anchor]=created_at`. One JSON
string per field (`dataset={"mapping": …}`) says the same.
"""

import re
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile

from api.bodies import check_media, parse_object, reject_bad_values
from api.deps import Slot
from api.errors import BadRequest
from api.files.schemas import PURPOSES
from api.middleware import FORM_OVERHEAD_BYTES, file_too_large
from api.problems import checked, did_you_mean
from models.settings import settings
from worker.semisup.ingest.findings import IngestOptions

MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 << 10
MAX_NAME_CHARS = 255
NESTED, PLAIN = ("dataset", "expires_after"), ("purpose", "file")
_BRACKETS = re.compile(r"(\w+)((?:\[\w*\])*)", re.ASCII)


class ExpiresAfter(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


@dataclass(frozen=True)
class Upload:
    file: BinaryIO
    filename: str  # cleaned: shown, never a path
    purpose: str
    dataset: dict[str, Any]  # IngestOptions, only what was given
    expires_after: float | None  # seconds


async def upload_form(request: Request, _slot: Slot) -> AsyncIterator[Upload]:
    check_media(request, "multipart/form-data")
    length, limit = request.headers.get("content-length", ""), settings().max_file_bytes
    if length.isdecimal() and int(length[:20]) > limit + FORM_OVERHEAD_BYTES:
        raise file_too_large(limit)
    async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
        yield read_form(form)


UploadForm = Annotated[Upload, Depends(upload_form, scope="function")]


def read_form(form: FormData) -> Upload:
    """Raises BadRequest or SpecError naming the field."""
    fields: dict[str, Any] = {}
    for key, value in form.multi_items():
        _put(fields, key, value)
    reject_bad_values({name: fields[name] for name in NESTED if name in fields})
    file = fields.get("file")
    if not isinstance(file, UploadFile):
        raise BadRequest(
            "'file' is required, as a file part.", code="missing_field", param="file", hint="curl -F file=@data.jsonl"
        )
    expires = fields.get("expires_after")
    return Upload(
        file=file.file,
        filename=clean_name(file.filename or ""),
        purpose=_purpose(fields.get("purpose")),
        dataset=IngestOptions.of(fields.get("dataset")).model_dump(exclude_defaults=True),
        expires_after=None if expires is None else checked(ExpiresAfter, expires, "expires_after").seconds,
    )


def _purpose(given: object) -> str:
    if given is None:
        raise BadRequest("'purpose' is required.", code="missing_field", param="purpose", hint="Send purpose=fine-tune.")
    if given not in PURPOSES:
        raise BadRequest(
            f"'purpose' must be one of {', '.join(PURPOSES)}; got {str(given)[:64]!r}.",
            code="unknown_choice",
            param="purpose",
            hint=did_you_mean(str(given), PURPOSES) or "Send purpose=fine-tune.",
        )
    return str(given)


def _put(fields: dict[str, Any], key: str, value: str | UploadFile) -> None:
    match = _BRACKETS.fullmatch(key)
    name, inner = (match[1], re.findall(r"\[(\w*)\]", match[2])) if match else (key, [])
    if name not in NESTED + PLAIN:
        raise BadRequest(
            f"Unknown field {key[:100]!r}.",
            code="unknown_field",
            param=key[:100],
            hint=did_you_mean(key, NESTED + PLAIN) or f"Known: {', '.join(NESTED + PLAIN)}.",
        )
    if name in NESTED and not isinstance(value, str):
        raise BadRequest(f"{key[:100]!r} must be text, not a file.", code="wrong_type", param=name, hint="Send a form field.")
    if name in NESTED and not inner:
        value = parse_object(value.encode())  # type: ignore[assignment, union-attr]
    as_list = bool(inner) and inner[-1] == ""  # labels[]=a, labels[]=b
    *way, last = [name, *inner][:-1] if as_list else [name, *inner]
    here: Any = fields
    for step in way:
        here = here.setdefault(step, {})
        if not isinstance(here, dict):
            raise _twice(key)
    if as_list and isinstance(here.setdefault(last, []), list):
        here[last].append(value)
    elif last in here:
        raise _twice(key)
    else:
        here[last] = value


def _twice(key: str) -> BadRequest:
    return BadRequest(f"The field {key[:100]!r} is given twice.", code="duplicate_key", param=key[:100], hint="Send it once.")


def clean_name(name: str) -> str:
    """The name as text to show: its last path segment, without control and direction characters, at most 255 characters."""
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name))[-1]
    kept = "".join(char for char in last if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")).strip()
    return kept[:MAX_NAME_CHARS] if kept.strip(".") else "upload"

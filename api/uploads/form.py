"""What routes below an upload are given. The upload comes first: nobody sends 64 MiB to one that does not take them."""

from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO

from fastapi import Depends, Request
from starlette.datastructures import UploadFile

from api.bodies import check_media
from api.deps import Slot, Submitter
from api.errors import BadRequest
from api.middleware import FORM_OVERHEAD_BYTES, part_too_large
from api.problems import did_you_mean
from api.uploads import service
from models.settings import settings


def known(caller: Submitter, upload_id: str) -> str:
    service.check_known(caller, upload_id)
    return upload_id


def taking_parts(caller: Submitter, upload_id: str) -> str:
    service.check_pending(caller, upload_id)
    return upload_id


Known = Annotated[str, Depends(known)]
TakingParts = Annotated[str, Depends(taking_parts, scope="function")]


async def part_form(request: Request, _upload: TakingParts, _slot: Slot) -> AsyncIterator[BinaryIO]:
    check_media(request, "multipart/form-data")
    length, limit = request.headers.get("content-length", ""), settings().max_part_bytes
    if length.isdecimal() and int(length[:20]) > limit + FORM_OVERHEAD_BYTES:
        raise part_too_large(limit)
    async with request.form(max_files=1, max_fields=1) as form:
        fields = form.multi_items()
        for name, _ in fields:
            if name != "data":
                hint = did_you_mean(name, ("data",)) or "The bytes are in the field 'data', and there is no other."
                raise BadRequest(f"Unknown field {name[:100]!r}.", code="unknown_field", param=name[:100], hint=hint)
        if len(fields) != 1 or not isinstance(fields[0][1], UploadFile):
            hint = "curl -F data=@part-1"
            raise BadRequest("'data' is required, as one file part.", code="missing_field", param="data", hint=hint)
        yield fields[0][1].file


PartForm = Annotated[BinaryIO, Depends(part_form, scope="function")]

"""/v1/files: OpenAI's five, and what was found in a file."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.deps import PageOf10000, Reader, Submitter
from api.downloads import download
from api.files import service
from api.files.form import UploadForm
from api.files.schemas import FileObject, FilePreview, FileValidation
from api.once import OnceDep
from api.wire import KEYED, Deleted, ListOf, refusals

router = APIRouter(prefix="/v1/files", tags=["files"], responses=KEYED)

UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"type": "string", "enum": ["fine-tune", "user_data"]},
                        "dataset": {
                            "type": "string",
                            "description": "JSON: format, mapping, labels, role. Or dataset[mapping][input]=…",
                        },
                        "expires_after": {"type": "string", "description": 'JSON: {"anchor":"created_at","seconds":3600}'},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    operation_id="createFile",
    response_model=FileObject,
    responses=refusals(400, 408, 409, 413, 415, 422, 507),
    openapi_extra=UPLOAD_BODY,
)
def create_file(caller: Submitter, upload: UploadForm, once: OnceDep) -> FileObject | Response:
    return service.create(caller, upload, once)


@router.get("", operation_id="listFiles", responses=refusals(400))
def list_files(
    caller: Reader, page: PageOf10000, purpose: Annotated[str | None, Query(max_length=64)] = None
) -> ListOf[FileObject]:
    return service.listing(caller, purpose, page)


@router.get("/{file_id}", operation_id="retrieveFile", responses=refusals(404))
def retrieve_file(caller: Reader, file_id: str) -> FileObject:
    return service.retrieve(caller, file_id)


@router.delete("/{file_id}", operation_id="deleteFile", responses=refusals(400, 404, 409))
def delete_file(caller: Submitter, file_id: str) -> Deleted:
    return service.delete(caller, file_id)


@router.get("/{file_id}/content", operation_id="downloadFile", responses=refusals(404, 416), response_class=Response)
def file_content(caller: Reader, file_id: str, request: Request) -> Response:
    return download(request, *service.content(caller, file_id))


@router.get("/{file_id}/validation", operation_id="getFileValidation", responses=refusals(404))
def file_validation(caller: Reader, file_id: str) -> FileValidation:
    return service.validation(caller, file_id)


@router.get("/{file_id}/preview", operation_id="previewFile", responses=refusals(400, 404))
def preview_file(
    caller: Reader,
    file_id: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> FilePreview:
    return service.preview(caller, file_id, limit, offset)

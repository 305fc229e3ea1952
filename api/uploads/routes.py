"""/v1/uploads: OpenAI's four."""

from fastapi import APIRouter, Response

from api.bodies import JsonBody
from api.deps import Submitter
from api.once import OnceDep
from api.uploads import service
from api.uploads.form import Known, PartForm, TakingParts
from api.uploads.schemas import UploadComplete, UploadCreate, UploadObject, UploadPartObject
from api.wire import KEYED, refusals

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=KEYED)

BODY_SCHEMAS = (UploadCreate, UploadComplete)
CREATE_BODY, COMPLETE_BODY = (
    {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}},
        }
    }
    for body in BODY_SCHEMAS
)
PART_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post(
    "",
    operation_id="createUpload",
    response_model=UploadObject,
    responses=refusals(400, 409, 413, 415, 422),
    openapi_extra=CREATE_BODY,
)
def create_upload(caller: Submitter, body: JsonBody, once: OnceDep) -> UploadObject | Response:
    return service.create(caller, body, once)


@router.post(
    "/{upload_id}/parts",
    operation_id="addUploadPart",
    response_model=UploadPartObject,
    responses=refusals(400, 404, 408, 409, 413, 415, 422, 507),
    openapi_extra=PART_BODY,
)
def add_part(caller: Submitter, upload: TakingParts, data: PartForm, once: OnceDep) -> UploadPartObject | Response:
    return service.add_part(caller, upload, data, once)


@router.post(
    "/{upload_id}/complete",
    operation_id="completeUpload",
    response_model=UploadObject,
    responses=refusals(400, 404, 409, 413, 415, 422, 507),
    openapi_extra=COMPLETE_BODY,
)
def complete_upload(caller: Submitter, upload: Known, body: JsonBody, once: OnceDep) -> UploadObject | Response:
    return service.complete(caller, upload, body, once)


@router.post("/{upload_id}/cancel", operation_id="cancelUpload", responses=refusals(404, 409))
def cancel_upload(caller: Submitter, upload_id: str) -> UploadObject:
    return service.cancel(caller, upload_id)

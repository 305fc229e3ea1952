"""/v1/keys: for keys with the scope admin, and their own tenant."""

from fastapi import APIRouter

from api.bodies import JsonBody
from api.deps import Admin
from api.keys import service
from api.keys.schemas import ApiKeyMade, ApiKeyObject, KeyCreate
from api.wire import KEYED, Deleted, ListOf, refusals

router = APIRouter(prefix="/v1/keys", tags=["keys"], responses=KEYED)

CREATE_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/KeyCreate"}}}}
}
BODY_SCHEMAS = (KeyCreate,)


@router.post("", operation_id="createApiKey", responses=refusals(400, 413, 415), openapi_extra=CREATE_BODY)
def create_key(caller: Admin, body: JsonBody) -> ApiKeyMade:
    return service.create(caller, body)


@router.get("", operation_id="listApiKeys")
def list_keys(caller: Admin) -> ListOf[ApiKeyObject]:
    return service.listing(caller)


@router.get("/{key_id}", operation_id="retrieveApiKey", responses=refusals(404))
def retrieve_key(caller: Admin, key_id: str) -> ApiKeyObject:
    return service.retrieve(caller, key_id)


@router.delete("/{key_id}", operation_id="revokeApiKey", responses=refusals(404))
def revoke_key(caller: Admin, key_id: str) -> Deleted:
    return service.revoke(caller, key_id)

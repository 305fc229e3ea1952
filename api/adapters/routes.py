"""/v1/models. Ids hold slashes and colons, which the client escapes and the server unescapes: hence the path converter."""

from fastapi import APIRouter

from api.adapters import service
from api.adapters.schemas import ModelObject
from api.deps import Reader, Submitter
from api.wire import KEYED, Deleted, ListOf, refusals

router = APIRouter(prefix="/v1/models", tags=["models"], responses=KEYED)


@router.get("", operation_id="listModels")
def list_models(caller: Reader) -> ListOf[ModelObject]:
    return service.listing(caller)


@router.get("/{model:path}", operation_id="retrieveModel", responses=refusals(404))
def retrieve_model(caller: Reader, model: str) -> ModelObject:
    return service.retrieve(caller, model)


@router.delete("/{model:path}", operation_id="deleteModel", responses=refusals(403, 404))
def delete_model(caller: Submitter, model: str) -> Deleted:
    return service.delete(caller, model)

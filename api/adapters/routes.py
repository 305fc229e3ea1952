"""/v1/models. Ids hold slashes and colons, which the client escapes and the server unescapes: hence the path converter."""

from fastapi import APIRouter

from api.adapters import service
from api.adapters.schemas import ModelObject
from api.deps import CallerDep
from api.wire import Deleted, ListOf, refusals

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", operation_id="listModels")
def list_models(caller: CallerDep) -> ListOf[ModelObject]:
    return service.listing(caller)


@router.get("/{model:path}", operation_id="retrieveModel", responses=refusals(404))
def retrieve_model(caller: CallerDep, model: str) -> ModelObject:
    return service.retrieve(caller, model)


@router.delete("/{model:path}", operation_id="deleteModel", responses=refusals(403, 404))
def delete_model(caller: CallerDep, model: str) -> Deleted:
    return service.delete(caller, model)

"""/healthz asks nothing of anybody, /readyz asks everything the server leans on."""

from fastapi import APIRouter, Response

from api.health import service
from api.health.schemas import Health, Readiness, Version

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="getHealth")
async def healthz() -> Health:
    return Health()


@router.get("/readyz", operation_id="getReadiness", responses={503: {"model": Readiness}})
def readyz(response: Response) -> Readiness:
    found = service.readiness()
    response.status_code = 503 if found.status == "not_ready" else 200
    return found


@router.get("/version", operation_id="getVersion")
async def version() -> Version:
    return service.version()

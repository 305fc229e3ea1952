"""The HTTP front end. `uvicorn --factory api.main:create_app`; `python -m api.up` also starts a worker beside it."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import VERSION, background
from api.adapters import routes as adapters
from api.auth import Door
from api.errors import add_handlers
from api.files import routes as files
from api.fine_tuning import routes as fine_tuning
from api.health import routes as health
from api.health.service import warn_of_no_wall
from api.keys import routes as keys
from api.limits import Meter
from api.links import add_links
from api.middleware import BodyDeadline, RequestHeaders, UploadLimit
from api.uploads import routes as uploads
from models import logs
from models.settings import settings


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    logs.start("api", error_text=settings().log_error_text)
    spool, before = settings().data_dir.resolve() / "spool", tempfile.tempdir
    spool.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(spool)  # multipart parts lie beside the store, not in a small /tmp
    warn_of_no_wall()
    try:
        with background.running():
            yield
    finally:
        tempfile.tempdir = before


def create_app() -> FastAPI:
    app = FastAPI(title="Semift", version=VERSION, lifespan=_lifespan, redirect_slashes=False)
    app.state.door, app.state.meter = Door(), Meter()
    add_handlers(app)
    app.add_middleware(UploadLimit)
    app.add_middleware(BodyDeadline)
    app.add_middleware(RequestHeaders)  # added last, so it is outermost: even a refused upload has an id
    for room in (files.router, uploads.router, fine_tuning.router, adapters.router, keys.router, health.router):
        app.include_router(room)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the schemas of the bodies it does not read itself."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document["components"]["schemas"]
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]  # FastAPI's own refusal: here it is a 400 in the envelope
        for body in (*uploads.BODY_SCHEMAS, *fine_tuning.BODY_SCHEMAS, *keys.BODY_SCHEMAS):
            schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= {name: part for name, part in schema.pop("$defs", {}).items() if name not in schemas}
            schemas[body.__name__] = schema
        add_links(document)
        app.openapi_schema = document
    return app.openapi_schema

"""What routes are given: who is asking, and which page of a list."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal, NamedTuple

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.auth import Door, check_scope
from api.limits import Meter, one_upload
from models import logs
from models.keys import Scope

Order = Literal["asc", "desc"]


class Caller(NamedTuple):
    """Whose key it was: everything a request sees and makes is this tenant's."""

    tenant_id: str
    key_id: str = ""


_bearer = HTTPBearer(auto_error=False, description="sk-semift-…")  # for the OpenAPI document; the door reads the header


class Needs:
    """What a route asks of the key it is called with. Every route names one, or is in OPEN (tests/api/test_keys.py)."""

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope = scope

    async def __call__(
        self, request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        door: Door = request.app.state.door
        known = await door.admit(request)
        meter: Meter = request.app.state.meter
        await meter.count(known.tenant_id, known.key_id)
        check_scope(known, self.scope)
        logs.note(tenant=known.tenant_id)
        return Caller(known.tenant_id, known.key_id)


OPEN = ("/healthz", "/readyz", "/version", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")  # no key is asked for
Reader = Annotated[Caller, Depends(Needs("read"))]
Submitter = Annotated[Caller, Depends(Needs("submit"))]
Admin = Annotated[Caller, Depends(Needs("admin"))]


async def _one_upload(caller: Submitter) -> AsyncIterator[None]:
    async with one_upload(caller.tenant_id, caller.key_id):
        yield


Slot = Annotated[None, Depends(_one_upload, scope="function")]  # free before the answer is sent: the next may follow it at once


class PageAsked(NamedTuple):
    after: str | None
    limit: int
    descending: bool


After = Annotated[str | None, Query(max_length=255, description="The id of the last item of the page before.")]
OrderBy = Annotated[Order, Query(description="By age: newest (desc) or oldest (asc) first.")]


def _twenty(after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20, order: OrderBy = "desc") -> PageAsked:
    return PageAsked(after, limit, order == "desc")


def _ten(after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 10, order: OrderBy = "desc") -> PageAsked:
    return PageAsked(after, limit, order == "desc")


def _all(after: After = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000, order: OrderBy = "desc") -> PageAsked:
    return PageAsked(after, limit, order == "desc")


PageOf20 = Annotated[PageAsked, Depends(_twenty)]  # OpenAI's defaults, list by list
PageOf10 = Annotated[PageAsked, Depends(_ten)]
PageOf10000 = Annotated[PageAsked, Depends(_all)]

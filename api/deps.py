"""What routes are given: who is asking, and which page of a list."""

from typing import Annotated, Literal, NamedTuple

from fastapi import Depends, Query

Order = Literal["asc", "desc"]


class Caller(NamedTuple):
    tenant_id: str


def caller() -> Caller:
    """Any bearer key is accepted, and none at all: there is one tenant until keys exist."""
    return Caller("default")


CallerDep = Annotated[Caller, Depends(caller)]


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

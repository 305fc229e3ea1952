"""Shapes every resource shares: the list, the deletion, the error. Unknown fields of our own never leak: all are declared."""

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)


class ListOf(BaseModel, Generic[T]):
    """A page. `has_more` is always sent: without it the stock client asks for one more page."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def list_of(items: Sequence[T], has_more: bool = False, *, id_of: str = "id") -> ListOf[T]:
    ids = [str(getattr(item, id_of)) for item in items]
    return ListOf(data=list(items), first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str
    line: int | None = None
    hint: str | None = None
    errors: list[dict[str, Any]] | None = None
    request_id: str | None


class ErrorBody(BaseModel):
    """Every answer from 400 up."""

    error: Error


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these statuses, in the one envelope."""
    return {status: {"model": ErrorBody} for status in statuses}


KEYED = refusals(401, 403, 429)  # of every route that asks for a key

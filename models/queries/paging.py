"""Keyset pages: a page starts after a row, not at an offset, so rows that arrive meanwhile move nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, RowMapping, Select, literal, tuple_
from sqlalchemy.orm import Session


class UnknownCursor(Exception):
    """The `after` of a page names no row of this list."""

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        super().__init__(f"no row {cursor!r} in this list")


class Page(NamedTuple):
    rows: Sequence[RowMapping]
    has_more: bool


def page(
    session: Session,
    rows: Select[Any],
    keys: Sequence[ColumnElement[Any]],
    after: Sequence[object] | None,
    *,
    limit: int,
    descending: bool,
) -> Page:
    """`limit` rows behind the row whose `keys` are `after`. The keys together must be unique in the list."""
    if after is not None:
        here, there = tuple_(*keys), tuple_(*(literal(value, key.type) for key, value in zip(keys, after, strict=True)))
        rows = rows.where(here < there if descending else here > there)
    order = [key.desc() if descending else key.asc() for key in keys]
    found = session.execute(rows.order_by(*order).limit(limit + 1)).mappings().all()
    return Page(found[:limit], len(found) > limit)

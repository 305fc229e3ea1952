"""A key on the wire. Its text is shown once, by the answer that made it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping

from models.keys import WIRE_PREFIX, Scope

YEAR_SECONDS = 31_536_000


class KeyCreate(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=64, description="What it is for.")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)] = Field(
        ["read", "submit"], description="read: GET; submit: upload, order, cancel, delete; admin: keys. None includes another."
    )
    expires_in_seconds: int | None = Field(None, ge=60, le=10 * YEAR_SECONDS, description="Default: it does not expire.")


class ApiKeyObject(BaseModel):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    tenant: str
    scopes: list[Scope]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None = Field(description="To ten minutes.")


class ApiKeyMade(ApiKeyObject):
    key: str = Field(description="sk-semift-…: it is not stored and never shown again.")


def key_object(row: RowMapping) -> ApiKeyObject:
    times = {name: row[name] if row[name] is None else int(row[name]) for name in TIMES}
    known = {"name": row["name"], "tenant": row["tenant_id"], "scopes": row["scopes"]}
    return ApiKeyObject.model_validate({"id": WIRE_PREFIX + row["id"], **known, **times})


TIMES = ("created_at", "expires_at", "revoked_at", "last_used_at")

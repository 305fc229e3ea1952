"""A tenant's keys, made and revoked by its admins. Tenants are the operator's (api/keys/__main__.py)."""

from collections.abc import Mapping
from typing import Any

from api import limits
from api.deps import Caller
from api.errors import NotFound
from api.keys.schemas import ApiKeyMade, ApiKeyObject, KeyCreate, key_object
from api.problems import checked
from api.wire import Deleted, ListOf, list_of
from models.db import transaction
from models.keys import WIRE_PREFIX, new_key
from models.queries import keys


def create(caller: Caller, body: Mapping[str, Any]) -> ApiKeyMade:
    asked, key = checked(KeyCreate, body), new_key()
    scopes = sorted(set(asked.scopes))
    with transaction(tenant=caller.tenant_id) as session:
        limits.check_keys(session, caller.tenant_id)
        row = keys.insert_key(
            session, caller.tenant_id, key, name=asked.name, scopes=scopes, expires_in=asked.expires_in_seconds
        )
    return ApiKeyMade(**key_object(row).model_dump(), key=str(key))


def listing(caller: Caller) -> ListOf[ApiKeyObject]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        rows = keys.list_keys(session, caller.tenant_id)
    return list_of([key_object(row) for row in rows])


def retrieve(caller: Caller, key_id: str) -> ApiKeyObject:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        row = keys.get_key(session, caller.tenant_id, key_id.removeprefix(WIRE_PREFIX))
    if row is None:
        raise _no_key(key_id)
    return key_object(row)


def revoke(caller: Caller, key_id: str) -> Deleted:
    """Idempotent. The row stays and shows when."""
    with transaction(tenant=caller.tenant_id) as session:
        if not keys.revoke_key(session, caller.tenant_id, key_id.removeprefix(WIRE_PREFIX)):
            raise _no_key(key_id)
    return Deleted(id=key_id, object="api_key")


def _no_key(key_id: str) -> NotFound:
    shown = key_id[:64].encode("ascii", "backslashreplace").decode()
    return NotFound(f"No key '{shown}'.", code="key_not_found", param="key_id", hint="GET /v1/keys lists yours.")

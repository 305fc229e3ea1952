"""API keys of tests. KEY is in every test's database: the default tenant's, with every scope."""

from collections.abc import Sequence

from sqlalchemy import Engine

from models.db import transaction
from models.keys import SCOPES, Key, Scope, new_key
from models.queries.keys import ensure_tenant, insert_key

_KEY = Key("0123456789ab", "a-key-of-tests_which-opens-nothing-anywhere")
KEY = str(_KEY)


def auth(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


AUTH = auth(KEY)


def add_key(tenant: str, scopes: Sequence[Scope] = SCOPES, expires_in: float | None = None, key: Key | None = None) -> str:
    """A key in the configured database, for a tenant that is made when it is new; its text."""
    made = key or new_key()
    with transaction() as session:
        ensure_tenant(session, tenant)
        insert_key(session, tenant, made, name="a test", scopes=scopes, expires_in=expires_in)
    return str(made)


def add_test_key(target: Engine) -> None:
    with transaction(on=target) as session:
        insert_key(session, "default", _KEY, name="tests", scopes=SCOPES, expires_in=None)

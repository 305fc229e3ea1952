"""Who is asking: the bearer key of a request, looked up in the database and remembered for a few seconds.

Every way in which a key can be wrong is one answer, so that nobody learns which keys exist. A revocation takes effect in
every API process within `key_cache_seconds`; until then that process goes on with what it remembers.
"""

import time
from collections import OrderedDict
from typing import NamedTuple, NoReturn

from fastapi import Request
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from api.errors import Forbidden, Unauthorized
from models.db import EVERYONE, transaction
from models.keys import Key, Scope, is_secret_of, parse_key
from models.queries.keys import find_key, note_use
from models.settings import settings

REMEMBERED = 1000  # keys per process; the one unused for longest goes first
CHALLENGE = {"www-authenticate": 'Bearer realm="semift"'}


class Known(NamedTuple):
    """A key's row, as it was when it was read."""

    key_id: str
    tenant_id: str
    scopes: frozenset[Scope]
    secret_sha256: str
    usable: bool
    until: float  # of the monotonic clock: read again after this


class Door:
    """One for each app. Its methods run on the event loop; only a look into the database leaves it."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Known] = OrderedDict()

    async def admit(self, request: Request) -> Known:
        """Raises Unauthorized."""
        key = presented(request)
        if key is None:
            _refuse()
        known = self._known.get(key.id)
        if known is None or known.until <= time.monotonic():
            known = await run_in_threadpool(_look_up, key)
            self._remember(key.id, known)
        if not is_secret_of(key, known.secret_sha256 if known else None) or known is None or not known.usable:
            _refuse()
        return known

    def _remember(self, key_id: str, known: Known | None) -> None:
        if known is None:
            self._known.pop(key_id, None)  # unknown ids are not kept: a flood of them must not push real ones out
            return
        self._known[key_id] = known
        self._known.move_to_end(key_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def check_scope(known: Known, scope: Scope) -> None:
    """Raises Forbidden naming the scope that is missing."""
    if scope not in known.scopes:
        has = ", ".join(sorted(known.scopes)) or "none"
        raise Forbidden(
            f"This needs the scope '{scope}'; the key has {has}.",
            code="forbidden",
            hint=f"Use a key with the scope '{scope}'; an admin key makes one: POST /v1/keys.",
            headers={"www-authenticate": f'Bearer realm="semift", error="insufficient_scope", scope="{scope}"'},
        )


def presented(request: Request) -> Key | None:
    """The key of the one Authorization header."""
    given = request.headers.getlist("authorization")
    scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return parse_key(text.strip()) if scheme.lower() == "bearer" else None


def _look_up(key: Key) -> Known | None:
    began = time.monotonic()
    with transaction(tenant=EVERYONE, read_only=True) as session:
        row = find_key(session, key.id)
    if row is None:
        return None
    left = row["valid_seconds"]
    usable = row["revoked_at"] is None and (left is None or left > 0)
    if usable and not row["used_lately"] and is_secret_of(key, row["secret_sha256"]):
        _note(key.id)
    remember = settings().key_cache_seconds
    until = began + (min(remember, left) if usable and left is not None else remember)
    return Known(row["id"], row["tenant_id"], frozenset(row["scopes"]), row["secret_sha256"], usable, until)


def _note(key_id: str) -> None:
    """A database that takes no writes at the moment still answers reads."""
    try:
        with transaction(tenant=EVERYONE) as session:
            note_use(session, key_id)
    except OperationalError:
        pass


def _refuse() -> NoReturn:
    raise Unauthorized(
        "A valid API key is needed.",
        code="unauthorized",
        hint="Send 'Authorization: Bearer sk-semift-…'. The embedded server writes its key into the file api-key of its data "
        "folder; an operator makes others with `semift keys create`.",
        headers=CHALLENGE,
    )

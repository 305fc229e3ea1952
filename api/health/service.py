"""Can this server do its work now? One check per thing it leans on; none may hang, none may show a URL or a path."""

import io
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import redis
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from api import VERSION
from api.health.schemas import Check, Readiness, Version
from api.middleware import OPENAI_VERSION
from migrations.upgrade import config
from models.blobs import blobs
from models.db import engine, transaction
from models.queries.health import answers
from models.settings import settings

BROKER_TIMEOUT_SECONDS = 1.0
PROBE = b"semift readiness probe"  # stored again and again: it is one blob


class _Thing(NamedTuple):
    name: str
    required: bool
    check: Callable[[], None]


def readiness() -> Readiness:
    checks = [_timed(thing) for thing in THINGS]
    if not all(check.ok for check in checks if check.required):
        return Readiness(status="not_ready", checks=checks)
    return Readiness(status="ready" if all(check.ok for check in checks) else "degraded", checks=checks)


def version() -> Version:
    return Version(version=VERSION, openai_version=OPENAI_VERSION, python=platform.python_version())


def _timed(thing: _Thing) -> Check:
    began, problem = time.perf_counter(), None
    try:
        thing.check()
    except Exception as error:
        problem = type(error).__name__  # its text may hold a URL with a password
    milliseconds = round(1000 * (time.perf_counter() - began), 1)
    return Check(name=thing.name, ok=problem is None, required=thing.required, milliseconds=milliseconds, problem=problem)


def _database() -> None:
    with transaction(read_only=True) as session:
        answers(session)


def _migrations() -> None:
    with engine().connect() as connection:
        there = MigrationContext.configure(connection).get_current_revision()
    if there != ScriptDirectory.from_config(config()).get_current_head():
        raise RuntimeError("migrations are missing")


def _store() -> None:
    blobs().put(io.BytesIO(PROBE))


def _broker() -> None:
    """Files need no server; of Redis one answer is enough."""
    if settings().broker.startswith("redis"):
        with redis.Redis.from_url(
            settings().broker, socket_timeout=BROKER_TIMEOUT_SECONDS, socket_connect_timeout=BROKER_TIMEOUT_SECONDS
        ) as client:
            client.ping()


THINGS = (
    _Thing("database", True, _database),
    _Thing("migrations", True, _migrations),
    _Thing("store", True, _store),
    _Thing("broker", False, _broker),
)

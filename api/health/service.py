"""Can this server do its work now? One check per thing it leans on; none may hang, none may show a URL or a path."""

import io
import logging
import platform
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, NamedTuple

import redis
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from api import VERSION
from api.health.schemas import Check, Readiness, Version
from api.middleware import OPENAI_VERSION
from migrations.upgrade import config
from models.blobs import blobs
from models.db import EVERYONE, engine, transaction
from models.queries.health import answers, looks_over_the_wall
from models.settings import settings

log = logging.getLogger("semift.api")

BROKER_TIMEOUT_SECONDS = 1.0
CHECK_SECONDS = 3.0
PROBE = b"semift readiness probe"  # stored again and again: it is one blob


class _Thing(NamedTuple):
    name: str
    required: bool
    check: Callable[[], None]


def readiness() -> Readiness:
    """Asks everything at once, and waits for no answer longer than CHECK_SECONDS."""
    asked = [_Asking.of(thing) for thing in THINGS]
    until = time.monotonic() + CHECK_SECONDS
    checks = [asking.result(until) for asking in asked]
    if not all(check.ok for check in checks if check.required):
        return Readiness(status="not_ready", checks=checks)
    return Readiness(status="ready" if all(check.ok for check in checks) else "degraded", checks=checks)


class _Asking(threading.Thread):
    """One question to one thing. While it has no answer nobody asks again: what hangs costs one thread, not one a probe."""

    _unanswered: ClassVar[dict[str, "_Asking"]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, thing: _Thing) -> None:
        super().__init__(name=f"semift-ready-{thing.name}", daemon=True)
        self._thing, self._began, self._found = thing, time.monotonic(), queue.SimpleQueue[Check]()

    @classmethod
    def of(cls, thing: _Thing) -> "_Asking":
        with cls._lock:
            before = cls._unanswered.get(thing.name)
            if before is not None and before.is_alive():
                return before
            asking = cls._unanswered[thing.name] = cls(thing)
            asking.start()
            return asking

    def run(self) -> None:
        check = _timed(self._thing)
        with self._lock:
            if self._unanswered.get(self._thing.name) is self:
                del self._unanswered[self._thing.name]
        self._found.put(check)

    def result(self, until: float) -> Check:
        try:
            check = self._found.get(timeout=max(until - time.monotonic(), 0))
        except queue.Empty:
            milliseconds = round(1000 * (time.monotonic() - self._began), 1)
            return Check(
                name=self._thing.name, ok=False, required=self._thing.required, milliseconds=milliseconds, problem="no answer"
            )
        self._found.put(check)  # for the other probes that wait for it
        return check


def warn_of_no_wall() -> None:
    """At start. A database that is away is no reason not to."""
    with suppress(OperationalError), transaction(tenant=EVERYONE, read_only=True) as session:
        if looks_over_the_wall(session):
            log.warning("the database role is a superuser or has BYPASSRLS: row-level security does not separate the tenants")


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
    with transaction(tenant=EVERYONE, read_only=True) as session:
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

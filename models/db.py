"""The engine and `transaction()`: the only commit in the house.

SQLite is opened in WAL mode, with full fsync (an accepted job survives power loss) and `BEGIN IMMEDIATE` for writers: a
deferred transaction that turns into a writer fails at once in spite of busy_timeout, so none is ever deferred.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from models.settings import settings

BUSY_TIMEOUT_MS = 10_000
POOL_TIMEOUT_SECONDS = 5
CONNECT_SECONDS = 5
EVERYONE = "*"  # as the tenant of a transaction: all of them
ONE_TENANT = "select set_config('semift.tenant', %s, true)"  # until the transaction ends
REQUEST = f"{ONE_TENANT}, set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)"
PROBES = 3  # keepalives without an answer, after which TCP gives a connection up


def make_engine(url: str) -> Engine:
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        if parts.database:
            Path(parts.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url, hide_parameters=True, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000}
        )
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    reachable: dict[str, Any] = {"pool_pre_ping": True, "pool_timeout": POOL_TIMEOUT_SECONDS}
    given_up = silence_bounds(settings().database_silence_seconds)
    # A statement's parameters are rows and names: no error message repeats them.
    return create_engine(url, hide_parameters=True, connect_args={"connect_timeout": CONNECT_SECONDS, **given_up}, **reachable)


def silence_bounds(seconds: float) -> dict[str, int]:
    """libpq's parameters that end a connection whose other end went away without a word (a firewall forgot it, a machine
    lost its power) within `seconds`. Without them a thread may wait for an answer for hours. A statement that takes long
    on a server that is there is not touched: its kernel answers the probes.

    Source: PostgreSQL's manual, "Database Connection Control Functions" (keepalives…, tcp_user_timeout in milliseconds).
    """
    idle = max(1, int(seconds / 3))
    between = max(1, int((seconds - idle) / PROBES))
    probes = {"keepalives": 1, "keepalives_idle": idle, "keepalives_interval": between, "keepalives_count": PROBES}
    return {**probes, "tcp_user_timeout": int(seconds * 1000)}


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event decides, not the driver
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    _into_wal(connection)


def _into_wal(connection: Any) -> None:
    """The first switch of a new database wants it alone and does not heed busy_timeout: processes starting at once collide."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _sqlite_begin(connection: Any) -> None:
    read_only = connection.get_execution_options().get("semift_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@lru_cache
def engine() -> Engine:
    return make_engine(settings().database)


@contextmanager
def transaction(*, tenant: str | None = None, read_only: bool = False, on: Engine | None = None) -> Iterator[Session]:
    """A session whose work is committed at the end of the block, and undone if the block raises.

    On PostgreSQL it sees and makes rows of `tenant` alone, whatever a query forgets to say (row-level security, see
    migrations/). Workers and housekeepers serve all tenants; the API always names one, or EVERYONE (tests/test_house.py).
    Somebody waits for what a request does: there, locks and statements are waited for no longer than the settings say, and
    OperationalError is what comes of it (503 with Retry-After, api/errors.py). Who names nobody waits as long as it takes.
    """
    with (on or engine()).connect().execution_options(semift_read_only=read_only) as connection:
        with Session(bind=connection, expire_on_commit=False) as session:
            if connection.dialect.name == "postgresql":
                _begin_on_postgresql(session, tenant)
            yield session
            session.commit()


def _begin_on_postgresql(session: Session, tenant: str | None) -> None:
    if tenant is None:
        session.connection().exec_driver_sql(ONE_TENANT, (EVERYONE,))
        return
    bounds = (settings().request_lock_seconds, settings().request_statement_seconds)
    session.connection().exec_driver_sql(REQUEST, (tenant, *(f"{seconds * 1000:.0f}ms" for seconds in bounds)))

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


def make_engine(url: str) -> Engine:
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite":
        if parts.database:
            Path(parts.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000})
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    return create_engine(url, pool_pre_ping=True, pool_timeout=POOL_TIMEOUT_SECONDS, connect_args={"connect_timeout": 5})


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
def transaction(*, read_only: bool = False) -> Iterator[Session]:
    """A session whose work is committed at the end of the block, and undone if the block raises."""
    with engine().connect().execution_options(semift_read_only=read_only) as connection:
        with Session(bind=connection, expire_on_commit=False) as session:
            yield session
            session.commit()

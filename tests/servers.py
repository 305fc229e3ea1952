"""The real PostgreSQL and Redis of the tests: given by URL, found on localhost, or started from binaries on this machine."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis
from sqlalchemy.engine import URL, make_url

DATABASE_VARIABLE = "SEMIFT_TEST_DATABASE_URL"
REDIS_VARIABLE = "SEMIFT_TEST_REDIS_URL"
INSTALL = (
    "Tests need PostgreSQL and Redis: set SEMIFT_TEST_DATABASE_URL and SEMIFT_TEST_REDIS_URL, start servers on localhost, "
    "or install their binaries (Debian: apt-get install postgresql redis-server; macOS: brew install postgresql redis)."
)


class ServersMissing(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(f"{INSTALL} Missing: {what}.")


@dataclass
class Servers:
    database_url: str = ""
    redis_url: str = ""
    started: list[Callable[[], object]] = field(default_factory=list)

    def stop(self) -> None:
        for stop in reversed(self.started):
            stop()
        self.started.clear()


def find() -> Servers:
    """Raises ServersMissing, after stopping what it had started."""
    servers = Servers()
    try:
        servers.database_url = os.environ.get(DATABASE_VARIABLE) or _local_postgres() or _start_postgres(servers)
        servers.redis_url = os.environ.get(REDIS_VARIABLE) or _local_redis() or _start_redis(servers)
    except BaseException:
        servers.stop()
        raise
    return servers


def _connect(url: URL) -> psycopg.Connection:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, connect_timeout=60)  # refused at once where nobody is


@contextlib.contextmanager
def own_database(server: str, *, like: str | None = None) -> Iterator[str]:
    """A database of our own on `server`, a copy of the one at `like`; its URL. Dropped at the end, whoever still uses it.

    It belongs to a plain role of its own, or to that of `like`: row-level security does not hold superusers.
    """
    admin, name = make_url(server), f"semift_test_{uuid.uuid4().hex[:12]}"
    with _connect(admin) as connection, _plain_role(connection, name, make_url(like or server), make=not like) as owner:
        template = f' template "{make_url(like).database}"' if like else ""
        connection.execute(f'create database "{name}"{template} owner "{owner.username}"'.encode())
        try:
            yield owner.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f'drop database if exists "{name}" with (force)'.encode())


@contextlib.contextmanager
def _plain_role(connection: psycopg.Connection, name: str, url: URL, *, make: bool) -> Iterator[URL]:
    """`url` with a role that is no superuser: a new one where `make` says so, else the one it has."""
    superuser = connection.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (True,)
    if not make or not superuser:  # who is given no superuser has made a plain role already
        yield url
        return
    connection.execute(f"create role \"{name}\" login nosuperuser nobypassrls password '{name}'".encode())
    try:
        yield url.set(username=name, password=name)
    finally:
        connection.execute(f'drop role if exists "{name}"'.encode())


@contextlib.contextmanager
def own_prefix(server: str) -> Iterator[str]:
    """A key prefix of our own in Redis; everything under it is dropped at the end."""
    prefix = f"semift-test-{uuid.uuid4().hex[:12]}:"
    try:
        yield prefix
    finally:
        drop_keys(server, prefix)


def drop_keys(server: str, prefix: str) -> int:
    """FLUSHALL for one prefix: how many keys there were."""
    with redis.Redis.from_url(server) as client:
        keys = list(client.scan_iter(match=f"{prefix}*", count=1000))
        return int(client.unlink(*keys)) if keys else 0


def _local_postgres() -> str | None:
    for user in ("postgres", os.environ.get("USER", "root")):
        url = f"postgresql+psycopg://{user}@127.0.0.1:5432/postgres"
        with contextlib.suppress(psycopg.Error), _connect(make_url(url)):
            return url
    return None


def _local_redis() -> str | None:
    url = "redis://127.0.0.1:6379/0"
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url, socket_connect_timeout=60) as client:
        client.ping()
        return url
    return None


def _binary(name: str) -> str | None:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then it runs as somebody else."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def _start_postgres(servers: Servers) -> str:
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    if not initdb or not pg_ctl:
        raise ServersMissing("PostgreSQL")
    user, port = _server_user(), _free_port()
    folder = Path(tempfile.mkdtemp(prefix="semift-postgres-"))
    servers.started.append(lambda: shutil.rmtree(folder, ignore_errors=True))
    if user:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ServersMissing(f"PostgreSQL ({command[0]} said: {done.stdout[-300:]} {done.stderr[-300:]})")

    data = str(folder / "data")
    run(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
    # Its own log file: a server that inherits our pipes keeps them open, and the wait for pg_ctl would never end.
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
    run(pg_ctl, "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
    servers.started.append(lambda: run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop"))
    return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"


def _start_redis(servers: Servers) -> str:
    binary, port = _binary("redis-server"), _free_port()
    if not binary:
        raise ServersMissing("Redis")
    process = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
    )
    servers.started.append(process.wait)
    servers.started.append(process.terminate)
    with redis.Redis(port=port) as client:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                return f"redis://127.0.0.1:{port}/0"
            time.sleep(0.05)
    raise ServersMissing("Redis (it was started, but did not answer within a minute)")

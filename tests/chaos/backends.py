"""A PostgreSQL and a Redis of our own, which may be killed and flushed: nobody else's tests are on them."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import redis

from tests import servers

START_SECONDS = 60.0  # for a machine that stands still now and then
WAIT = ("-w", "-t", "200")


class OwnRedis:
    """Keeps nothing on disk: whoever kills it loses every message."""

    def __init__(self) -> None:
        binary = servers._binary("redis-server")
        if not binary:
            raise servers.ServersMissing("Redis")
        self.port = servers._free_port()
        self._command = [
            binary,
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1"),
            *("--save", ""),
            *("--appendonly", "no"),
        ]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.client() as client:
                client.ping()
                return
            time.sleep(0.05)
        raise servers.ServersMissing(f"Redis (it was started, but did not answer within {START_SECONDS:g} s)")

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=START_SECONDS, socket_connect_timeout=START_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    stop = kill


class OwnPostgres:
    """With fsync on, as a server has it whose crashes must cost nothing."""

    def __init__(self) -> None:
        initdb, pg_ctl = servers._binary("initdb"), servers._binary("pg_ctl")
        if not initdb or not pg_ctl:
            raise servers.ServersMissing("PostgreSQL")
        self.port, self._user, self._pg_ctl = servers._free_port(), servers._server_user(), pg_ctl
        self.folder = Path(tempfile.mkdtemp(prefix="semift-chaos-postgres-"))
        if self._user:
            shutil.chown(self.folder, self._user)
        self._run(initdb, "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def make_database(self, name: str = "semift") -> str:
        """The URL of a new one, of a plain role of its own: row-level security does not hold superusers."""
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"create role {name} login nosuperuser nobypassrls password '{name}'".encode())
            connection.execute(f"create database {name} owner {name}".encode())
        return f"postgresql+psycopg://{name}:{name}@127.0.0.1:{self.port}/{name}"

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise servers.ServersMissing(f"PostgreSQL ({command[0]} said: {done.stdout[-300:]} {done.stderr[-300:]})")

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c max_connections=100"
        self._run(self._pg_ctl, "-D", str(self.data), "-l", str(self.folder / "log"), "-o", options, *WAIT, "start")

    def kill(self) -> None:
        """SIGKILL to the postmaster: its children notice and end; the next start recovers from the log."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS
        while self._somebody_is_left() and time.monotonic() < deadline:
            time.sleep(0.05)
        # Where the dead are reaped late, the next one would take this one for alive.
        for lock in (self.data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*.lock")):
            lock.unlink()

    def _somebody_is_left(self) -> bool:
        """Backends outlive their postmaster for a moment, and a new one refuses to start beside them."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink() == self.data:
                    return True
        return False

    def halt(self) -> None:
        self._run(self._pg_ctl, "-D", str(self.data), "-m", "fast", *WAIT, "stop")

    def terminate_backends(self) -> None:
        """Ends everybody's connection."""
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname is not null"
            )

    def stop(self) -> None:
        with contextlib.suppress(servers.ServersMissing):
            self._run(self._pg_ctl, "-D", str(self.data), "-m", "immediate", *WAIT, "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

"""Real processes on real servers: two workers and an API, each of which can be killed, stopped and started again.

`scaled`: PostgreSQL and Redis of our own behind proxies. Else SQLite and a folder. The API stands behind a proxy either way.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
from sqlalchemy.engine import make_url

from migrations.upgrade import upgrade
from models.blobs import Blobs
from models.db import make_engine, transaction
from tests import servers
from tests.chaos.backends import OwnPostgres, OwnRedis
from tests.chaos.history import Deed, History, Move, deeds, everything, install, moves
from tests.chaos.planted import VARIABLE
from tests.chaos.proxy import ChaosProxy
from tests.chaos.pulse import Pulse
from tests.chaos.worker import ARGS
from tests.keys import AUTH, add_test_key

ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 3.0
MAX_ATTEMPTS = 6  # the nemesis takes some of them from jobs that are all right, and so does a machine that stands still
SETTLE_SECONDS = 5.0  # a sweep, two heartbeats, and a machine that does other things too
READY_SECONDS = 200.0
WORKERS = ("worker-1", "worker-2")
API = "api"


class Rig:
    """`with Rig(folder, scaled=True) as rig:`; everything runs and is ready then."""

    def __init__(self, folder: Path, *, scaled: bool, bug: str = "", workers: tuple[str, ...] = WORKERS) -> None:
        self.folder, self.scaled, self.workers, self._bug = folder, scaled, workers, bug
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.proxies: dict[str, ChaosProxy] = {}
        self.broker_prefix = "chaos:"
        self._until_the_end = contextlib.ExitStack()
        self._starts = 0

    def __enter__(self) -> "Rig":
        self.data_dir = self.folder / "data"
        self.data_dir.mkdir(parents=True)
        self.blobs = Blobs(self.data_dir.joinpath("blobs").as_uri(), spool=self.data_dir / "spool")
        try:
            self.pulse = self._until_the_end.enter_context(Pulse())
            self._start_servers()
            self.start(API, wait=False)
            for name in self.workers:
                self.start(name, wait=False)
            for name in (API, *self.workers):
                self.until_ready(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_servers(self) -> None:
        bounds = {"lease_seconds": LEASE_SECONDS, "data_dir": self.data_dir, "kill_grace_seconds": 1}
        bounds["max_attempts"] = MAX_ATTEMPTS
        api_port = servers._free_port()
        if self.scaled:
            self.redis, self.postgres = OwnRedis(), None
            self._until_the_end.callback(self.redis.stop)
            self.postgres = OwnPostgres()
            self._until_the_end.callback(self.postgres.stop)
            self.database_url = self.postgres.make_database()
            self._proxy("postgres", self.postgres.port)
            self._proxy("redis", self.redis.port)
            self.broker_url = f"redis://127.0.0.1:{self.proxies['redis'].port}/0"
            through = make_url(self.database_url).set(port=self.proxies["postgres"].port)
            bounds |= {
                "database_url": through.render_as_string(hide_password=False),
                "broker_url": self.broker_url,
                "broker_prefix": self.broker_prefix,
            }
        else:
            self.database_url = f"sqlite:///{self.data_dir}/semift.db"
            bounds |= {"database_url": self.database_url, "broker_url": "filesystem://"}
        self._proxy("http", api_port)
        self._api_port = api_port
        self.url = f"http://127.0.0.1:{self.proxies['http'].port}"
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SEMIFT_")}
        ours = {f"SEMIFT_{name.upper()}": str(value) for name, value in bounds.items()}
        self.environment: Mapping[str, str] = plain | ours | {VARIABLE: self._bug, "OMP_NUM_THREADS": "1"}
        self.engine = make_engine(self.database_url)
        self._until_the_end.callback(self.engine.dispose)
        upgrade(self.engine)
        add_test_key(self.engine)
        install(self.engine)

    def _proxy(self, name: str, port: int) -> None:
        self.proxies[name] = self._until_the_end.enter_context(ChaosProxy("127.0.0.1", port))

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.processes.values():
            process.wait()
        self._until_the_end.close()

    # --- processes -------------------------------------------------------------------------------------------------

    def start(self, name: str, *, wait: bool = True) -> None:
        self._starts += 1
        if before := self.processes.get(name):
            before.wait()
        command = [sys.executable, "-m", *self._command(name)]
        with self._log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(command, cwd=ROOT, env=dict(self.environment), stdout=log, stderr=log)
        if wait:
            self.until_ready(name)

    def _command(self, name: str) -> tuple[str, ...]:
        if name != API:
            return ("celery", *ARGS, "-n", f"{name}-{self._starts}@chaos")
        bound = ("--host", "127.0.0.1", "--port", str(self._api_port), "--log-level", "warning")
        return ("uvicorn", "--factory", "tests.chaos.app:create_app", *bound)

    def _log(self, name: str) -> Path:
        return self.folder / f"{self._starts:03d}-{name}.log"

    def ready(self, name: str) -> bool:
        process = self.processes[name]
        if process.poll() is not None:
            return False
        if name == API:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{self._api_port}/healthz", timeout=2).status_code == 200
            return False
        newest = sorted(self.folder.glob(f"*-{name}.log"))[-1]
        return " ready." in newest.read_text(errors="replace") or "semift" in newest.read_text(errors="replace")

    def until_ready(self, name: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready(name):
            if time.monotonic() > deadline or self.processes[name].poll() is not None:
                raise RuntimeError(f"{name} did not start\n{self.logs()[-3000:]}")
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in sorted(self.folder.glob("*.log")))

    def alive(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is None]

    def children(self, name: str) -> tuple[int, ...]:
        """The runners of a worker."""
        return tuple(sorted(_children(self.processes[name].pid)))

    # --- what a client does ----------------------------------------------------------------------------------------

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"{self.url}/v1", headers=AUTH, timeout=60)

    # --- what is left ----------------------------------------------------------------------------------------------

    def deeds(self) -> list[Deed]:
        return deeds(self.folder / "runlog")

    def moves(self) -> list[Move]:
        with self.engine.connect() as connection:
            return moves(connection)

    def history(self) -> History:
        """Deeds, moves, standstills of the machine and what is left; the caller adds what it did itself."""
        made = History(lease_seconds=LEASE_SECONDS, settle_seconds=SETTLE_SECONDS, deeds=self.deeds())
        made.faults += self.pulse.faults
        with transaction(on=self.engine) as session:  # of every tenant: without one, PostgreSQL shows no rows
            everything(session.connection(), self.blobs, made)
        return made


def _children(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from (int(child) for child in tasks.read_text().split())

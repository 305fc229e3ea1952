"""Fixtures for state: every test has settings, a data folder and, when it asks, a migrated database of its own.

`database` runs a test on SQLite and on PostgreSQL; `sqlite` and `postgresql` on one of them. `stack` runs it on the
embedded set-up (SQLite, filesystem broker) and the scaled one (PostgreSQL, Redis), for tests that start processes.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest

from migrations.upgrade import upgrade
from models.blobs import blobs
from models.db import engine, make_engine
from models.settings import settings
from tests import servers
from tests.keys import add_test_key
from tests.security.watch import WATCH

ROOT = Path(__file__).parents[1]

# The gate tries the same examples every time; `pytest --hypothesis-profile=default` goes looking for new ones. How long it
# takes to make one says how busy this machine is, and nothing about the service.
QUICK = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None, suppress_health_check=QUICK)
hypothesis.settings.load_profile("gate")
NEED_SERVERS = {"database", "postgresql", "postgres_server", "stack", "redis_server", "embedded", "scaled"}
_found = servers.Servers()
_missing = ""


def pytest_configure(config: pytest.Config) -> None:
    """Servers are found once, by the process that starts the others (pytest-xdist's workers inherit the variables)."""
    global _found, _missing
    WATCH.start()
    if hasattr(config, "workerinput"):
        return
    try:
        _found = servers.find()
    except servers.ServersMissing as problem:
        _missing = str(problem)
    else:
        os.environ[servers.DATABASE_VARIABLE] = _found.database_url
        os.environ[servers.REDIS_VARIABLE] = _found.redis_url


def pytest_unconfigure() -> None:
    _found.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needy = any(NEED_SERVERS.intersection(getattr(item, "fixturenames", ())) for item in items)
    if needy and servers.DATABASE_VARIABLE not in os.environ:
        raise pytest.UsageError(_missing or servers.INSTALL)


def forget_settings() -> None:
    """The next call of settings(), engine() and blobs() starts from the environment again."""
    if engine.cache_info().currsize:
        engine().dispose()
    for cached in (engine, blobs, settings):
        cached.cache_clear()


Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """`configure(lease_seconds=3)`: sets SEMIFT_LEASE_SECONDS for this test and the processes it starts."""

    def apply(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"SEMIFT_{name.upper()}", str(value))
        forget_settings()

    return apply


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("SEMIFT_") and not name.startswith("SEMIFT_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SEMIFT_DATA_DIR", str(tmp_path / "data"))
    for name in ("DATABASE_URL", "BROKER_URL", "STORE_URL"):
        monkeypatch.setenv(f"SEMIFT_{name}", "")  # whatever a developer's .env says
    monkeypatch.setenv("SEMIFT_REQUESTS_PER_MINUTE", "0")  # tests ask faster than people; test_quotas.py sets its own
    for name in ("LOCK", "STATEMENT"):  # that a machine stands still for seconds is no reason for a 503
        monkeypatch.setenv(f"SEMIFT_REQUEST_{name}_SECONDS", "120")
    forget_settings()
    yield
    forget_settings()


@pytest.fixture(scope="session")
def postgres_server() -> str:
    return os.environ[servers.DATABASE_VARIABLE]


@pytest.fixture(scope="session")
def redis_server() -> str:
    return os.environ[servers.REDIS_VARIABLE]


def _migrated(url: str) -> None:
    target = make_engine(url)
    upgrade(target)
    add_test_key(target)
    target.dispose()  # PostgreSQL copies a template only when nobody is connected to it; SQLite folds its WAL in


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    with servers.own_database(postgres_server) as url:
        _migrated(url)
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "semift.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    """Fails the test that unpickles, starts a shell, connects to another machine or writes outside of temporary folders."""
    before = len(WATCH.seen)
    yield
    assert WATCH.seen[before:] == []


Open = Callable[[str], str]


@pytest.fixture
def open_database(request: pytest.FixtureRequest, tmp_path: Path, configure: Configure) -> Iterator[Open]:
    """`open_database("postgresql")`: a migrated database of this test's own, now the configured one; its URL."""
    with ExitStack() as until_the_end:

        def make(kind: str) -> str:
            if kind == "sqlite":
                path = tmp_path / "data" / "semift.db"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
                url = f"sqlite:///{path}"
            else:
                server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template")
                url = until_the_end.enter_context(servers.own_database(server, like=template))
            configure(database_url=url)
            return url

        yield make
        forget_settings()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, open_database: Open) -> str:
    return open_database(request.param)


@pytest.fixture
def sqlite(open_database: Open) -> str:
    return open_database("sqlite")


@pytest.fixture
def postgresql(open_database: Open, postgres_server: str) -> str:
    return open_database("postgresql")


@dataclass
class Stack:
    """Real servers of a test's own, and the processes it starts on them."""

    name: str
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`python -m …` from the repository root, its output in a log file; killed at the end of the test."""
        log = (self.folder / f"{len(self.processes)}-{arguments[0]}.log").open("wb")
        command = [sys.executable, "-m", *arguments]
        with log:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


@pytest.fixture
def embedded(open_database: Open, tmp_path: Path) -> Iterator[Stack]:
    """SQLite and the filesystem broker."""
    open_database("sqlite")
    made = Stack("embedded", tmp_path)
    yield made
    made.stop()


@pytest.fixture
def scaled(open_database: Open, tmp_path: Path, configure: Configure, redis_server: str) -> Iterator[Stack]:
    """PostgreSQL and Redis."""
    open_database("postgresql")
    with servers.own_prefix(redis_server) as prefix:
        configure(broker_url=redis_server, broker_prefix=prefix)
        made = Stack("scaled", tmp_path)
        yield made
        made.stop()


@pytest.fixture(params=["embedded", "scaled"])
def stack(request: pytest.FixtureRequest) -> Stack:
    made: Stack = request.getfixturevalue(request.param)
    return made

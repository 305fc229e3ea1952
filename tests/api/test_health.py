"""Probes: alive without anybody's help, ready only with everything needed."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.engine import make_url

from api.health import service
from api.main import create_app
from models.db import transaction
from models.settings import settings
from tests.api.rows import labeled
from tests.api.sending import JOBS, upload
from tests.chaos.proxy import ChaosProxy
from tests.conftest import Configure, Stack, forget_settings
from tests.keys import AUTH
from tests.worker.watching import wait_until


def readiness(app: TestClient) -> tuple[int, str, dict[str, bool]]:
    response = app.get("/readyz")
    body = response.json()
    return response.status_code, body["status"], {check["name"]: check["ok"] for check in body["checks"]}


def test_a_server_with_all_it_needs_is_ready(app: TestClient) -> None:
    assert readiness(app) == (200, "ready", {"database": True, "migrations": True, "store": True, "broker": True})
    assert app.get("/healthz").json() == {"status": "ok"}
    assert app.get("/version").json()["name"] == "semift"


def test_missing_migrations_are_not_ready(app: TestClient) -> None:
    with transaction() as session:
        session.execute(text("update alembic_version set version_num = 'v0000'"))
    status, word, checks = readiness(app)
    assert (status, word, checks["database"], checks["migrations"]) == (503, "not_ready", True, False)


def test_a_database_that_is_away_is_not_ready_and_shows_no_url(sqlite: str, configure: Any) -> None:
    configure(database_url="postgresql+psycopg://someone:secret@127.0.0.1:1/nothing")
    app = TestClient(create_app(), headers=AUTH)
    status, word, checks = readiness(app)
    assert (status, word, checks["database"], checks["store"]) == (503, "not_ready", False, True)
    assert "secret" not in app.get("/readyz").text
    assert app.get("/healthz").status_code == 200
    assert app.get("/v1/files").status_code == 503


def test_without_its_broker_a_server_is_degraded_and_serves(sqlite: str, configure: Any) -> None:
    configure(broker_url="redis://127.0.0.1:1/0")
    app = TestClient(create_app(), headers=AUTH)
    assert readiness(app)[:2] == (200, "degraded")
    assert app.get("/v1/models").status_code == 200


@pytest.fixture
def proxied(postgresql: str, configure: Configure) -> Iterator[ChaosProxy]:
    """The service with a proxy between it and PostgreSQL."""
    there = make_url(postgresql)
    with ChaosProxy(there.host or "", there.port or 5432) as proxy:
        near = there.set(host="127.0.0.1", port=proxy.port)
        configure(database_url=near.render_as_string(hide_password=False))
        yield proxy
        forget_settings()


@pytest.mark.parametrize("mode", ["refuse", "reset"])
def test_a_database_that_goes_away_and_comes_back(proxied: ChaosProxy, mode: str) -> None:
    app = TestClient(create_app(), headers=AUTH)
    assert readiness(app)[:2] == (200, "ready")
    assert app.get("/v1/files").status_code == 200
    proxied.set(mode)
    status, word, checks = readiness(app)
    assert (status, word, checks) == (
        503,
        "not_ready",
        {"database": False, "migrations": False, "store": True, "broker": True},
    )
    assert app.get("/healthz").status_code == 200
    refused = app.get("/v1/files")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
    proxied.set("pass")
    assert readiness(app)[:2] == (200, "ready")
    assert app.get("/v1/files").status_code == 200


def test_a_database_that_hangs_is_not_waited_for_and_costs_no_thread_a_probe(
    proxied: ChaosProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = TestClient(create_app(), headers=AUTH)
    assert readiness(app)[:2] == (200, "ready")
    proxied.set("blackhole")

    def named() -> bool:
        """The store is waited for as shortly: on a machine that stands still it may come too late, once."""
        status, word, checks = readiness(app)
        assert (status, word, checks["database"]) == (503, "not_ready", False)
        return checks["store"]

    with monkeypatch.context() as hasty:
        hasty.setattr(service, "CHECK_SECONDS", 0.3)
        for _ in range(3):
            wait_until(named, 120)
    assert [thread.name for thread in threading.enumerate()].count("semift-ready-database") == 1
    assert app.get("/healthz").status_code == 200
    proxied.set("pass")  # what was held back arrives, and the waiting threads end
    wait_until(lambda: readiness(app)[:2] == (200, "ready"), 120)


def test_a_store_that_takes_nothing_is_named_and_reads_go_on(app: TestClient, tmp_path: Path) -> None:
    file = upload(app, labeled())
    store = tmp_path / "data" / "blobs"
    incoming = store / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.write_text("a file where the folder of new blobs should be")
    status, word, checks = readiness(app)
    assert (status, word, checks["store"], checks["database"]) == (503, "not_ready", False, True)
    assert app.get(f"/v1/files/{file}/content").content == labeled()
    incoming.unlink()
    assert readiness(app)[:2] == (200, "ready")


@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
def test_without_redis_jobs_are_accepted_and_read_and_its_return_is_noticed(
    scaled: Stack, configure: Configure, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = make_url(settings().broker)
    with ChaosProxy(there.host or "", there.port or 6379) as proxy:
        configure(broker_url=f"redis://127.0.0.1:{proxy.port}/{there.database or 0}")
        with TestClient(create_app(), headers=AUTH) as app:  # with its threads, which ring the doorbells
            assert readiness(app)[:2] == (200, "ready")
            proxy.set(mode)
            with monkeypatch.context() as hasty:
                hasty.setattr(service, "BROKER_TIMEOUT_SECONDS", 0.5)
                status, word, checks = readiness(app)
            assert (status, word, checks["broker"], checks["database"]) == (200, "degraded", False, True)
            job = app.post(JOBS, json={"model": "semift-small", "training_file": upload(app, labeled())})
            assert job.status_code == 200
            assert app.get(f"{JOBS}/{job.json()['id']}").json()["status"] == "queued"
            proxy.set("pass")
            assert readiness(app)[:2] == (200, "ready")

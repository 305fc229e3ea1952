"""Probes: alive without anybody's help, ready only with everything needed."""

from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import text

from api.main import create_app
from models.db import transaction


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
    app = TestClient(create_app())
    status, word, checks = readiness(app)
    assert (status, word, checks["database"], checks["store"]) == (503, "not_ready", False, True)
    assert "secret" not in app.get("/readyz").text
    assert app.get("/healthz").status_code == 200
    assert app.get("/v1/files").status_code == 503


def test_without_its_broker_a_server_is_degraded_and_serves(sqlite: str, configure: Any) -> None:
    configure(broker_url="redis://127.0.0.1:1/0")
    app = TestClient(create_app())
    assert readiness(app)[:2] == (200, "degraded")
    assert app.get("/v1/models").status_code == 200

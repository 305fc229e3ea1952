"""The envelope: every error class has a status, and even what nobody expected answers in it."""

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

import api.errors
from api.adapters import service as adapters
from api.errors import STATUS, ApiError
from api.main import create_app
from worker.semisup.errors import SemisupError


def descendants(kind: type[Exception]) -> list[type[Exception]]:
    return [*kind.__subclasses__(), *(below for child in kind.__subclasses__() for below in descendants(child))]


@pytest.mark.parametrize("kind", [*descendants(ApiError), *descendants(SemisupError)], ids=lambda kind: kind.__name__)
def test_every_error_class_has_a_row_in_the_status_table(kind: type[Exception]) -> None:
    assert kind in STATUS


def test_an_error_class_of_tomorrow_gets_the_row_of_its_parent() -> None:
    class Unsung(api.errors.Conflict): ...

    assert api.errors.refusal(Unsung("x", code="y")).status == 409


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> TestClient:
    def fail(_caller: object) -> None:
        raise error

    monkeypatch.setattr(adapters, "listing", fail)
    return TestClient(create_app(), raise_server_exceptions=False)


def test_a_bug_answers_500_in_the_envelope_and_is_logged_under_its_request_id(
    sqlite: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    response = broken(monkeypatch, RuntimeError("secret detail")).get("/v1/models")
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (500, "server_error", "internal_error")
    assert "secret" not in response.text
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["request_id"] in caplog.text
    assert "secret detail" in caplog.text


def test_a_database_that_is_away_is_503_and_worth_a_retry(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    response = broken(monkeypatch, OperationalError("select 1", {}, Exception("gone"))).get("/v1/models")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    assert response.headers["retry-after"] == "1"


def test_a_full_disk_is_said(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    response = broken(monkeypatch, OSError(28, "No space left on device")).get("/v1/models")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "insufficient_storage")
    assert broken(monkeypatch, OSError(5, "Input/output error")).get("/v1/models").status_code == 500


@pytest.mark.parametrize(
    ("path", "media"), [("/v1/fine_tuning/jobs", "application/json"), ("/v1/files", "multipart/form-data; boundary=b")]
)
def test_a_client_that_hangs_up_is_no_bug(sqlite: str, caplog: pytest.LogCaptureFixture, path: str, media: str) -> None:
    arriving: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"--b", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return arriving.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", media.encode()), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    asyncio.run(create_app()({**scope, "scheme": "http", "server": ("x", 80), "http_version": "1.1"}, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]) == (400, "length_mismatch")
    assert "unhandled" not in caplog.text


def test_every_answer_carries_openais_headers(sqlite: str) -> None:
    app = TestClient(create_app())
    for path in ("/v1/models", "/v1/files", "/nothing", "/healthz"):
        headers = app.get(path).headers
        assert headers["x-request-id"].startswith("req_")
        assert headers["openai-version"] == "2020-10-01"
        assert int(headers["openai-processing-ms"]) >= 0


def test_the_openapi_document_names_every_operation_once_and_every_refusal() -> None:
    document = create_app().openapi()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names)) == 25
    refusals = [
        response["content"]["application/json"]["schema"]["$ref"]
        for operation in operations
        for status, response in operation["responses"].items()
        if status in ("400", "403", "404", "409", "413", "415", "416")
    ]
    assert set(refusals) == {"#/components/schemas/ErrorBody"}
    assert not any("422" in operation["responses"] for operation in operations)
    order = document["components"]["schemas"]["JobCreate"]
    assert order["required"] == ["model", "training_file"]
    assert document["components"]["schemas"]["SemiSupervised"]["properties"]["rounds"]["maximum"] == 10

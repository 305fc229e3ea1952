"""The envelope: every error class has a status, and even what nobody expected answers in it."""

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

import api.errors
from api.adapters import service as adapters
from api.codes import JOB_ERRORS
from api.errors import STATUS, ApiError
from api.main import create_app
from tests.api.rows import labeled
from tests.api.sending import upload
from tests.keys import AUTH, KEY
from worker import parsing
from worker.semisup import errors as semisup
from worker.semisup.errors import SemisupError


def descendants(kind: type[Exception]) -> list[type[Exception]]:
    return [*kind.__subclasses__(), *(below for child in kind.__subclasses__() for below in descendants(child))]


@pytest.mark.parametrize("kind", [*descendants(ApiError), *descendants(SemisupError)], ids=lambda kind: kind.__name__)
def test_every_error_class_or_one_it_is_a_kind_of_has_a_row_in_the_status_table(kind: type[Exception]) -> None:
    assert set(kind.__mro__) & set(STATUS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (semisup.NonFiniteLoss("round-1/evolve", 7), "diverged_nan"),
        (semisup.DataError("x"), "invalid_data"),
        (semisup.DatasetRejected("x"), "invalid_file"),
        (semisup.DataError("x", code="no_samples_selected"), "no_samples_selected"),
        (semisup.KeepMismatch("x"), "other_run"),
        (semisup.Stopped("x"), "stopped"),
    ],
)
def test_what_ends_a_run_has_a_code(error: SemisupError, code: str) -> None:
    assert error.code == code
    assert code in JOB_ERRORS


def test_readers_that_cannot_be_started_are_worth_a_retry(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = TestClient(create_app(), headers=AUTH)
    file = upload(app, labeled())

    def away(*_: object, **__: object) -> None:
        raise parsing.ReaderAway("no memory")

    monkeypatch.setattr(parsing.Readers, "ask", away)
    response = app.get(f"/v1/files/{file}/preview")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "reader_unavailable")
    assert response.headers["x-should-retry"] == "true"


def test_an_error_class_of_tomorrow_gets_the_row_of_its_parent() -> None:
    class Unsung(api.errors.Conflict): ...

    assert api.errors.refusal(Unsung("x", code="y")).status == 409


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> TestClient:
    def fail(_caller: object) -> None:
        raise error

    monkeypatch.setattr(adapters, "listing", fail)
    return TestClient(create_app(), headers=AUTH, raise_server_exceptions=False)


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
    assert (response.status_code, response.json()["error"]["code"]) == (507, "storage_full")
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

    headers = [(b"content-type", media.encode()), (b"content-length", b"100"), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    asyncio.run(create_app()({**scope, "scheme": "http", "server": ("x", 80), "http_version": "1.1"}, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]) == (400, "length_mismatch")
    assert "unhandled" not in caplog.text


def test_every_answer_carries_openais_headers(sqlite: str) -> None:
    app = TestClient(create_app(), headers=AUTH)
    for path in ("/v1/models", "/v1/files", "/nothing", "/healthz"):
        headers = app.get(path).headers
        assert headers["x-request-id"].startswith("req_")
        assert headers["openai-version"] == "2020-10-01"
        assert int(headers["openai-processing-ms"]) >= 0


def test_the_openapi_document_names_every_operation_once_and_every_refusal() -> None:
    document = create_app().openapi()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names)) == 35
    refusals = [
        response["content"]["application/json"]["schema"]["$ref"]
        for operation in operations
        for status, response in operation["responses"].items()
        if status in ("400", "401", "403", "404", "408", "409", "413", "415", "416", "422", "507")
    ]
    assert set(refusals) == {"#/components/schemas/ErrorBody"}
    assert "HTTPValidationError" not in str(document["paths"])
    order = document["components"]["schemas"]["JobCreate"]
    assert all("Needed without from_job" in order["properties"][name]["description"] for name in ("model", "training_file"))
    assert document["components"]["schemas"]["SemiSupervised"]["properties"]["rounds"]["maximum"] == 10

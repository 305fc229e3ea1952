"""Log lines are JSON, say whose they are, and hold no key, no password and nothing that an exception quotes."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context

import pytest
from fastapi.testclient import TestClient

from models import logs
from tests.api.rows import labeled
from tests.keys import KEY

SECRET = "sk-semift-0123456789ab-a_secret_that_nobody_sees"


def line(make: Callable[[logging.Logger], None], **options: bool) -> dict[str, object]:
    """The one line that `make` logs."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(handler.format(record))  # type: ignore[method-assign]
    handler.setFormatter(logs.Lines("api", **options))
    logger = logging.Logger("a.b")
    logger.addHandler(handler)
    make(logger)
    (one,) = found
    assert "\n" not in one
    assert one.isascii()
    return dict(json.loads(one))


def test_a_line_says_when_who_what_and_about_whom() -> None:
    with logs.about(request_id="req_1"):
        logs.note(tenant="t")
        found = line(lambda log: log.info("job %s created", "ftjob-1", extra={"job_id": "ftjob-1", "row": "never"}))
    assert found.pop("time")
    assert found == {
        **{"level": "info", "process": "api", "logger": "a.b", "event": "job ftjob-1 created"},
        **{"request_id": "req_1", "tenant": "t", "job_id": "ftjob-1"},
    }
    assert "request_id" not in line(lambda log: log.info("x"))


def test_what_is_noted_in_a_thread_is_known_outside_and_elsewhere_it_is_not() -> None:
    with logs.about(request_id="req_1"):
        thread = threading.Thread(target=copy_context().run, args=(lambda: logs.note(tenant="t"),))
        thread.start()
        thread.join()
        assert line(lambda log: log.info("x"))["tenant"] == "t"
        with logs.about(job_id="j"):
            logs.note(tenant="other")
        assert line(lambda log: log.info("x"))["tenant"] == "t"


@pytest.mark.parametrize(
    "text",
    [
        f"key {SECRET} refused",
        f"Authorization: Bearer {SECRET}",
        "header 'authorization': 'Bearer a_secret_that_nobody_sees'",
        "postgresql+psycopg://semift:a_secret_that_nobody_sees@db/semift is away",
        "redis://:a_secret_that_nobody_sees@cache:6379/0",
        "GET /x?api_key=a_secret_that_nobody_sees&limit=1",
    ],
)
def test_keys_and_passwords_are_taken_out_whoever_wrote_them(text: str) -> None:
    found = line(lambda log: log.warning("%s", text))
    assert "a_secret_that_nobody_sees" not in json.dumps(found)
    assert "***" in str(found["event"])


def _fail() -> None:
    try:
        raise KeyError("a row of data")
    except KeyError as problem:
        raise ValueError(f"label 'a row of data' {SECRET}") from problem


def _logged(log: logging.Logger) -> None:
    try:
        _fail()
    except ValueError:
        log.exception("it failed")


def test_an_error_is_told_by_type_and_place_and_not_by_what_it_quotes() -> None:
    found = line(_logged)
    assert (found["error"], found["cause"]) == ("ValueError", "KeyError")
    assert any("_fail" in place for place in found["where"])  # type: ignore[attr-defined]
    assert "a row of data" not in json.dumps(found)


def test_an_operator_may_ask_for_what_errors_say_but_not_for_keys() -> None:
    found = line(_logged, error_text=True)
    assert found["says"] == "label 'a row of data' sk-***"


def test_a_name_cannot_end_a_line_or_colour_a_terminal() -> None:
    found = line(lambda log: log.info("file %s", "a\r\nlevel: error\x1b[31m\u2028"))
    assert found["event"] == "file a\r\nlevel: error\x1b[31m\u2028"  # as data, escaped on the wire


def test_every_request_is_one_line_with_its_id_and_tenant(
    app: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.setFormatter(logs.Lines("api"))
    handler.emit = lambda record: written.append(handler.format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("semift.api")
    monkeypatch.setattr(logger, "handlers", [handler])
    caplog.set_level(logging.INFO, "semift.api")  # whatever the tests before have left: a logger remembers what it may say
    made = app.post("/v1/files", files={"file": ("rows.jsonl", labeled())}, data={"purpose": "fine-tune"})
    app.get(f"/v1/files/{KEY}")
    app.get("/v1/files", headers={"authorization": f"Bearer {SECRET}"})
    job = app.post("/v1/fine_tuning/jobs", json={"model": "semift-small", "training_file": made.json()["id"]}).json()["id"]

    lines = [json.loads(text) for text in written]
    assert [(line["event"], line["method"], line["status"]) for line in lines] == [
        ("request", "POST", 200),
        ("request", "GET", 404),
        ("request", "GET", 401),
        ("request", "POST", 200),
    ]
    assert lines[0]["request_id"] == made.headers["x-request-id"]
    assert [line.get("tenant") for line in lines] == ["default", "default", None, "default"]
    assert (lines[3]["path"], lines[3]["job_id"]) == ("/v1/fine_tuning/jobs", job)
    assert KEY not in "".join(written)
    assert SECRET not in "".join(written)


def test_a_process_logs_lines_of_json_on_stderr_whoever_speaks() -> None:
    code = (
        "import logging, warnings; from models import logs; logs.start('api'); logs.start('api')\n"
        "logging.getLogger('uvicorn.error').info('up')\n"
        "logging.getLogger('httpx').info('GET http://engine')\n"
        "warnings.warn('old')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = [json.loads(text) for text in done.stderr.splitlines()]
    assert [entry["logger"] for entry in found] == ["uvicorn.error", "py.warnings"]

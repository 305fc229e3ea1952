"""Strings that nobody may see again, sent through the whole service: they are looked for in every log and every column."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from models.db import transaction
from models.tables import Base
from tests.conftest import Stack
from tests.keys import KEY, add_key
from tests.worker.test_real_job import SPEC, WORDS
from worker.app import WORKER_ARGS

ROW = "canary-of-a-row"
BAD = "canary-of-a-bad-row"
SPOKEN = "canary-in-a-system-prompt"
LOST = "sk-semift-ffffffffffff-canary_of_a_key_that_opens_nothing"
# What is for a row's owner: what is wrong with a file, and the evidence of a job. Not: events, errors, stages, keys, doorbells.
FINDINGS = {"files.validation", "files.status_details"}
EVIDENCE = {"samples.prompt", "samples.response", "samples.pseudo_response", "samples.votes"}


@pytest.fixture
def service(stack: Stack, configure: Callable[..., None]) -> Iterator[tuple[Stack, httpx.Client, str]]:
    """API and worker as processes; a client with a key made for this test."""
    configure(lease_seconds=300, threads=1, base_lms=json.dumps({"tiny": "bundled:1"}))
    key = add_key("canaries")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stack.spawn("uvicorn", "--factory", "api.main:create_app", "--port", str(port))
    stack.spawn("celery", *WORKER_ARGS, "-n", "canary@test")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, timeout=120) as client:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                client.get("/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield stack, client, key


def upload(client: httpx.Client, name: str, rows: list[dict[str, Any]] | bytes) -> str:
    content = rows if isinstance(rows, bytes) else "\n".join(map(json.dumps, rows)).encode()
    made = client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def things(start: int, count: int) -> list[dict[str, str]]:
    rows = [
        (f"what colour is the {thing} number {n}, {ROW}", colour)
        for n in range(4)
        for colour in WORDS
        for thing in WORDS[colour]
    ]
    return [{"text": question, "label": colour} for question, colour in rows[start : start + count]]


def order(client: httpx.Client, training: str, unlabeled: str, **more: Any) -> httpx.Response:
    spec = {**SPEC, "warmup": {"n_epochs": 2}, "evolve": {"n_epochs": 1}, "system_prompt": SPOKEN, "unlabeled_file": unlabeled}
    body = {"model": "tiny", "training_file": training, "method": {"type": "semi_supervised", "semi_supervised": spec | more}}
    return client.post("/v1/fine_tuning/jobs", json=body)


def ended(client: httpx.Client, job: str, stack: Stack) -> dict[str, Any]:
    deadline = time.monotonic() + 600
    while True:
        found = client.get(f"/v1/fine_tuning/jobs/{job}").json()
        if found["status"] in ("succeeded", "failed", "cancelled"):
            return dict(found)
        assert time.monotonic() < deadline, stack.logs()
        time.sleep(0.3)


def columns_with(wanted: str) -> set[str]:
    """table.column of every column with `wanted` in it, whatever its type."""
    found = set()
    with transaction(read_only=True) as session:  # of all tenants
        for table in Base.metadata.sorted_tables:
            for row in session.execute(text(f'SELECT * FROM "{table.name}"')).mappings():
                found |= {f"{table.name}.{name}" for name, value in row.items() if wanted in str(value)}
    return found


def canaries_in(content: str) -> list[str]:
    return [canary for canary in (ROW, BAD, SPOKEN, LOST, LOST[-40:]) if canary in content]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rows_and_keys_are_in_no_log_and_in_no_column_that_is_not_for_them(
    service: tuple[Stack, httpx.Client, str], tmp_path: Path
) -> None:
    stack, client, key = service
    labeled, unlabeled = upload(client, "l.jsonl", things(0, 24)), upload(client, "u.jsonl", things(24, 24))
    job = order(client, labeled, unlabeled)
    assert job.status_code == 200, job.text

    # Everything that goes wrong with rows and keys in its hands.
    told = [
        client.get("/v1/files", headers={"authorization": f"Bearer {LOST}"}),
        client.get(f"/v1/files/{LOST}"),
        client.get("/v1/files", params={"after": LOST}),
        order(client, upload(client, "quote.csv", f'text,label\n"{BAD},a\nx,b\n'.encode()), unlabeled),
        order(client, upload(client, "half.jsonl", f'{{"text": "{BAD}"\n'.encode()), unlabeled),
        order(client, upload(client, "torn.parquet", b"PAR1" + BAD.encode() + b"PAR1"), unlabeled),
    ]
    assert [answer.status_code for answer in told] == [401, 404, 400, 400, 400, 400]
    assert LOST[-40:] not in told[0].text  # an id, right or wrong, is repeated to whoever sent it; a key is not
    wrong = order(client, labeled, unlabeled, answer={"kind": "label", "labels": ["red", BAD]})
    assert wrong.status_code == 400, wrong.text

    assert ended(client, job.json()["id"], stack)["status"] == "succeeded", stack.logs()

    written = stack.logs()
    assert '"event": "request"' in written
    assert job.json()["id"] in written
    assert canaries_in(written) == []
    for secret in (key, key.rpartition("-")[2], KEY):
        assert secret not in written
        assert columns_with(secret) == set()
    assert columns_with(BAD) <= FINDINGS
    assert "samples.prompt" in columns_with(ROW) <= EVIDENCE
    assert columns_with(LOST) == set()
    events = client.get(f"/v1/fine_tuning/jobs/{job.json()['id']}/events").text
    assert canaries_in(events) == []
    for path in (tmp_path / "data").rglob("*.log"):
        assert canaries_in(path.read_text(errors="replace")) == []

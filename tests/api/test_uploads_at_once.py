"""How many uploads of a key are under way at once: on a real server, over several of them, and when clients go away."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

from api import limits
from api.errors import LimitReached
from api.main import create_app
from models.db import transaction
from models.queries import uploads
from models.settings import Settings
from models.tables import UploadSlot
from tests.api.rows import labeled
from tests.conftest import Configure
from tests.keys import AUTH, KEY, add_key, auth
from tests.serving import serving

FORM = {"files": {"file": ("l.jsonl", labeled())}, "data": {"purpose": "fine-tune"}}
KEY_ID = "0123456789ab"


@pytest.fixture
def limited(database: str, configure: Configure) -> Iterator[str]:
    """A running service that takes one upload of a key at a time."""
    configure(uploads_at_once=1)
    with serving() as url:
        yield url


@pytest.fixture
def two_at_once(database: str, configure: Configure) -> Iterator[str]:
    configure(uploads_at_once=2, body_seconds=250)  # however slow this machine is, who sends nothing is not hurried
    with serving() as url:
        yield url


def taken() -> int:
    with transaction(read_only=True) as session:
        return session.execute(select(func.count()).select_from(UploadSlot)).scalar_one()


def soon(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def begin(url: str, key: str = KEY, path: str = "/v1/files") -> socket.socket:
    """An upload of which the head and the first bytes have been sent, and no more."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=120)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-length: 5000\r\n"
        "content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    connection.sendall(head.encode())
    return connection


def refused(response: httpx.Response) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (429, "too_many_uploads", "rate_limit_error"), response.text
    assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("2", "true")
    assert error["hint"]


def test_the_upload_after_the_last_is_told_to_wait_and_a_client_that_hangs_up_makes_room(
    two_at_once: str,
) -> None:
    server = two_at_once
    upload = httpx.post(
        f"{server}/v1/uploads",
        json={"bytes": 9, "filename": "a", "mime_type": "text/csv", "purpose": "fine-tune"},
        headers=AUTH,
        timeout=120,
    ).json()["id"]
    connections = [begin(server), begin(server, path=f"/v1/uploads/{upload}/parts")]
    try:
        assert soon(lambda: taken() == 2)
        answer = httpx.post(f"{server}/v1/files", headers=AUTH, timeout=120, **FORM)
        refused(answer)
        assert "2 uploads under way" in answer.json()["error"]["message"]
        refused(httpx.post(f"{server}/v1/uploads/{upload}/parts", headers=AUTH, files={"data": b"123456789"}, timeout=120))
        assert httpx.get(f"{server}/v1/files", headers=AUTH, timeout=120).status_code == 200  # reading is not uploading
        assert (
            httpx.post(f"{server}/v1/files", headers=auth(add_key("default")), timeout=120, **FORM).status_code == 200
        )  # nor another key
        connections.pop().close()
        assert soon(lambda: taken() == 1)
        assert httpx.post(f"{server}/v1/files", headers=AUTH, timeout=120, **FORM).status_code == 200
    finally:
        for connection in connections:
            connection.close()
    assert soon(lambda: taken() == 0)


def test_one_after_the_other_needs_one_slot(limited: str) -> None:
    """A slot is free before the answer is there, so that the next request cannot come too early."""
    with httpx.Client(base_url=limited, headers=AUTH, timeout=120) as client:
        assert [client.post("/v1/files", **FORM).status_code for _ in range(12)] == [200] * 12
        bad = {**FORM, "data": {"purpose": "fun"}}
        assert [client.post("/v1/files", **bad).status_code for _ in range(6)] == [400] * 6


def test_the_stock_client_waits_and_comes_through(limited: str) -> None:
    async def run() -> set[str]:
        async with openai.AsyncOpenAI(base_url=f"{limited}/v1", api_key=KEY, max_retries=50) as client:
            made = await asyncio.gather(
                *(client.files.create(file=("l.jsonl", labeled(2000 + n)), purpose="fine-tune") for n in range(3))
            )
            return {file.id for file in made}

    assert len(asyncio.run(run())) == 3


def test_servers_count_together_and_what_one_that_died_held_comes_back(database: str, configure: Configure) -> None:
    configure(uploads_at_once=2)
    with transaction() as session:  # taken by processes that are no more
        slots = [uploads.take_slot(session, "default", KEY_ID, 2) for _ in range(3)]
    assert None not in slots[:2]
    assert slots[2] is None
    app = TestClient(create_app(), headers=AUTH)
    refused(app.post("/v1/files", **FORM))
    with transaction() as session:
        session.execute(update(UploadSlot).where(UploadSlot.id == slots[0]).values(until=1.0))
    assert app.post("/v1/files", **FORM).status_code == 200
    assert taken() == 1


def test_a_slot_is_renewed_as_long_as_the_upload_lasts(database: str, configure: Configure, monkeypatch: Any) -> None:
    configure(uploads_at_once=1)
    monkeypatch.setattr(limits, "RENEW_SECONDS", 0.01)

    def until() -> float:
        with transaction(read_only=True) as session:
            return session.execute(select(UploadSlot.until)).scalar_one()

    async def run() -> None:
        async with limits.one_upload("default", KEY_ID):
            with transaction() as session:
                session.execute(update(UploadSlot).values(until=1.0))
            deadline = time.monotonic() + 120
            while until() == 1.0 and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert until() > 1.0
            with pytest.raises(LimitReached):
                async with limits.one_upload("default", KEY_ID):
                    pass
        assert taken() == 0

    asyncio.run(run())


def test_a_database_that_goes_away_costs_a_slot_and_no_upload(
    sqlite: str, configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure(uploads_at_once=1)

    def away(*_: Any) -> None:
        raise OperationalError("delete", {}, Exception("gone"))

    app = TestClient(create_app(), headers=AUTH)
    with monkeypatch.context() as broken:
        broken.setattr(uploads, "free_slot", away)
        assert app.post("/v1/files", **FORM).status_code == 200
    assert "slot of an upload" in caplog.text
    refused(app.post("/v1/files", **FORM))


def test_no_limit_and_the_default(sqlite: str, configure: Configure) -> None:
    assert Settings.model_fields["uploads_at_once"].default == 16
    configure(uploads_at_once=0)
    with transaction() as session:
        session.add_all(UploadSlot(tenant_id="default", key_id=KEY_ID, until=9e9) for _ in range(40))
        session.flush()
    assert TestClient(create_app(), headers=AUTH).post("/v1/files", **FORM).status_code == 200

"""Quotas and rates: what is refused, what is said, and that several processes count together."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, update

from api import limits
from api.errors import LimitReached
from api.limits import Meter
from api.main import create_app
from models.blobs import blobs
from models.db import engine, transaction
from models.queries import quotas
from models.queries.quotas import Window, take_requests
from models.settings import Settings, settings
from models.tables import ApiKey
from tests.api.rows import labeled
from tests.api.sending import JOBS, World, new_world, upload
from tests.conftest import Configure
from tests.keys import AUTH, add_key, auth

KEY_ID = "0123456789ab"
HOUR = 3600.0  # the minute of those who ask more often than a slow machine may answer in one


@pytest.fixture
def world(app: TestClient) -> World:
    return new_world(app)


def refused(response: Any, code: str) -> dict[str, Any]:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (429, code, "rate_limit_error"), response.text
    assert int(response.headers["retry-after"]) >= 1
    assert error["hint"]
    return dict(error)


# --- requests per minute --------------------------------------------------------------------------------------------------


def let_the_minute_end() -> None:
    with transaction() as session:
        session.execute(update(ApiKey).values(window_at=1.0))


def test_the_request_after_the_last_is_refused_and_told_when_to_come_back(database: str, configure: Configure) -> None:
    configure(requests_per_minute=7)
    app = TestClient(create_app(), headers=AUTH)
    began = time.monotonic()
    assert [app.get("/v1/models").status_code for _ in range(7)] == [200] * 7
    response = app.get("/v1/models")
    said = refused(response, "rate_limited")
    seconds = int(response.headers["retry-after"])
    assert 60 - (time.monotonic() - began) <= seconds <= 60
    assert "7 requests of 60 seconds" in said["message"]
    assert f"in {seconds} s" in said["message"]
    assert response.headers["x-should-retry"] == "true"  # after that time, a retry is right
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert app.get("/healthz").status_code == 200
    assert app.get("/v1/models", headers=auth(add_key("other"))).status_code == 200  # another key has a minute of its own


def test_a_key_without_the_scope_is_counted_too(sqlite: str, configure: Configure) -> None:
    configure(requests_per_minute=3)
    app = TestClient(create_app(), headers=auth(add_key("default", ("read",))))
    assert [app.get("/v1/keys").status_code for _ in range(4)] == [403, 403, 403, 429]


def test_over_all_processes_a_minute_has_exactly_its_requests(
    database: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five servers that share nothing but the database; the limit is no multiple of what they take at a time."""
    configure(requests_per_minute=103)
    monkeypatch.setattr(quotas, "WINDOW_SECONDS", HOUR)
    servers = [TestClient(create_app(), headers=AUTH) for _ in range(5)]
    answers = [server.get("/v1/models").status_code for server in servers]  # an app's first request builds it, not for threads
    with ThreadPoolExecutor(5) as pool:
        answers += pool.map(lambda n: servers[n % 5].get("/v1/models").status_code, range(145))
    assert answers.count(200) == 103
    assert answers.count(429) == 47


def test_the_next_minute_begins_anew(database: str, configure: Configure) -> None:
    configure(requests_per_minute=2)
    assert [TestClient(create_app(), headers=AUTH).get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
    let_the_minute_end()
    assert TestClient(create_app(), headers=AUTH).get("/v1/models").status_code == 200


def test_requests_are_taken_by_the_slice_and_a_flood_asks_the_database_no_more(
    database: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(requests_per_minute=100, key_cache_seconds=300)
    monkeypatch.setattr(quotas, "WINDOW_SECONDS", HOUR)
    app, writes = TestClient(create_app(), headers=AUTH), []

    def listen(*given: Any) -> None:
        if "window_used" in given[2] and given[2].startswith("UPDATE"):
            writes.append(given[2])

    event.listen(engine(), "before_cursor_execute", listen)
    assert [app.get("/v1/models").status_code for _ in range(100)] == [200] * 100
    assert len(writes) == 20
    assert [app.get("/v1/models").status_code for _ in range(50)] == [429] * 50
    assert len(writes) == 22  # a slice and a single one were refused, once


def test_what_does_not_fit_as_a_slice_is_taken_one_by_one(database: str) -> None:
    def take(wanted: int) -> Window:
        with transaction() as session:
            return take_requests(session, KEY_ID, wanted, 10)

    began = time.monotonic()
    assert [take(4).granted for _ in range(5)] == [4, 4, 1, 1, 0]
    left = take(4).left
    assert 59.9 - (time.monotonic() - began) <= left <= 60  # two clocks
    let_the_minute_end()
    assert take(4).granted == 4


def test_a_process_that_is_refused_asks_again_when_the_minute_is_over(
    monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    configure(requests_per_minute=40)
    windows, clock = [Window(2, 60.0), Window(0, 60.0), Window(2, 60.0)], [0.0]
    monkeypatch.setattr(limits, "_take", lambda *_: windows.pop(0))
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    async def run() -> None:
        meter = Meter()
        for _ in range(2):
            await meter.count("default", "k")
        for _ in range(3):
            with pytest.raises(LimitReached):
                await meter.count("default", "k")
        assert len(windows) == 1
        clock[0] = 59.9
        with pytest.raises(LimitReached):
            await meter.count("default", "k")
        assert len(windows) == 1
        clock[0] = 60.0
        await meter.count("default", "k")
        assert windows == []

    asyncio.run(run())


def test_the_defaults_do_not_get_into_the_way() -> None:
    fields = Settings.model_fields
    assert fields["requests_per_minute"].default == 3000
    assert fields["tenant_open_jobs"].default == 1000
    assert fields["tenant_running_jobs"].default == 0


# --- quotas ---------------------------------------------------------------------------------------------------------------


def test_a_tenant_has_only_so_many_jobs_that_have_not_ended(world: World, configure: Configure) -> None:
    configure(tenant_open_jobs=2)
    jobs = [world.app.post(JOBS, json=world.order()).json()["id"] for _ in range(2)]
    response = world.app.post(JOBS, json=world.order())
    said = refused(response, "quota_exceeded")
    assert "2 of 2 jobs" in said["message"]
    assert "when one of them ends" in said["message"]
    assert response.headers["x-should-retry"] == "false"  # the stock client would only wait and fail again
    other = new_world(TestClient(world.app.app, headers=auth(add_key("other"))))
    assert other.app.post(JOBS, json=other.order()).status_code == 200
    assert world.app.post(f"{JOBS}/{jobs[0]}/cancel").status_code == 200
    assert world.app.post(JOBS, json=world.order()).status_code == 200


def at_once(count: int, send: Callable[[int], Any]) -> list[int]:
    with ThreadPoolExecutor(count) as pool:
        return sorted(response.status_code for response in pool.map(send, range(count)))


def test_two_jobs_do_not_fit_into_the_room_for_one(world: World, configure: Configure) -> None:
    configure(tenant_open_jobs=3)
    assert at_once(8, lambda _: world.app.post(JOBS, json=world.order())) == [200] * 3 + [429] * 5


def test_stored_bytes_are_counted_in_full_and_given_back(app: TestClient, configure: Configure) -> None:
    size = len(labeled())
    configure(tenant_stored_bytes=2 * size)
    first = upload(app, labeled())
    upload(app, labeled())  # the same bytes: stored once, counted twice
    send = {"files": {"file": ("l.jsonl", labeled(1))}, "data": {"purpose": "fine-tune"}}
    said = refused(app.post("/v1/files", **send), "quota_exceeded")
    assert f"{2 * size} of {2 * size} stored bytes" in said["message"]
    assert f"this file has {len(labeled(1))}" in said["message"]
    assert app.post("/v1/files", headers=auth(add_key("other")), **send).status_code == 200
    app.delete(f"/v1/files/{first}")
    assert app.post("/v1/files", **send).status_code == 200


def test_a_file_that_is_refused_is_not_stored(app: TestClient, configure: Configure) -> None:
    configure(tenant_stored_bytes=10)
    folder = settings().data_dir / "blobs"
    before = sorted(folder.rglob("*")) if folder.exists() else []
    assert app.post("/v1/files", files={"file": ("l.jsonl", labeled())}, data={"purpose": "fine-tune"}).status_code == 429
    assert (sorted(folder.rglob("*")) if folder.exists() else []) == before
    assert blobs()


def test_two_files_do_not_fit_into_the_room_for_one(app: TestClient, configure: Configure) -> None:
    configure(tenant_stored_bytes=2 * len(labeled()) + 10)

    def send(_: int) -> Any:
        return app.post("/v1/files", files={"file": ("l.jsonl", labeled())}, data={"purpose": "fine-tune"})

    assert at_once(6, send) == [200] * 2 + [429] * 4


def test_a_tenant_has_only_so_many_keys(app: TestClient, configure: Configure) -> None:
    configure(tenant_keys=3)  # each has a rate of its own
    made = [app.post("/v1/keys", json={"name": f"k{n}"}).json()["id"] for n in range(2)]
    assert "3 of 3 keys" in refused(app.post("/v1/keys", json={"name": "one more"}), "quota_exceeded")["message"]
    app.delete(f"/v1/keys/{made[0]}")
    assert app.post("/v1/keys", json={"name": "one more"}).status_code == 200


def test_an_answer_that_was_lost_is_given_again_when_the_quota_is_used_up(world: World, configure: Configure) -> None:
    configure(tenant_open_jobs=1)
    headers = {"idempotency-key": "a"}
    first = world.app.post(JOBS, json=world.order(), headers=headers)
    assert world.app.post(JOBS, json=world.order(), headers=headers).content == first.content
    refused(world.app.post(JOBS, json=world.order(), headers={"idempotency-key": "b"}), "quota_exceeded")
    assert world.app.post(f"{JOBS}/{first.json()['id']}/cancel").status_code == 200
    assert world.app.post(JOBS, json=world.order(), headers={"idempotency-key": "b"}).status_code == 200

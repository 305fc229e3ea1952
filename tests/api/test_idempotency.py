"""A request sent twice makes one thing, by Idempotency-Key or as a retry of OpenAI's client: at once, later, after a crash."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from api import once
from api.fine_tuning import service
from api.main import create_app
from models.db import transaction
from models.queries.leases import sweep
from models.tables import Event as JobEvent
from models.tables import Idempotency, Job, Outbox
from tests.api.conftest import Uploads
from tests.api.rows import labeled
from tests.api.sending import JOBS, JSON, World, new_world
from tests.keys import AUTH, KEY, add_key, auth

DAY = 24 * 3600


def count(table: Any) -> int:
    with transaction(read_only=True) as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def age(seconds: float) -> None:
    with transaction() as session:
        session.execute(update(Idempotency).values(created_at=Idempotency.created_at - seconds))


@pytest.fixture
def world(app: TestClient) -> World:
    return new_world(app)


def post(world: World, key: str | None = None, retry: int | None = None, **fields: Any) -> httpx.Response:
    headers = {"idempotency-key": key} if key is not None else {}
    headers |= {"x-stainless-retry-count": str(retry)} if retry is not None else {}
    return world.app.post(JOBS, json={**world.order(), **fields}, headers=headers)


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_fifty_at_once_make_one_job_and_get_the_same_bytes(server: str, upload: Uploads) -> None:
    body = {"model": "semift-small", "training_file": upload.labeled()}
    waiting, all_here = [], threading.Barrier(50)

    def order(number: int) -> httpx.Response:
        changed = {**body, "seed": 7} if number == 49 else body
        all_here.wait()
        while True:
            response = httpx.post(f"{server}{JOBS}", json=changed, headers={"idempotency-key": "storm", **AUTH}, timeout=120)
            if response.status_code != 409:
                return response
            assert code(response) == (409, "request_in_progress")
            assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("1", "true")
            waiting.append(number)
            time.sleep(int(response.headers["retry-after-ms"]) / 1000)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(order, range(50)))
    assert {response.status_code for response in answers} <= {200, 422}
    winners = {number == 49 for number, response in enumerate(answers) if response.status_code == 200}
    assert len(winners) == 1  # either the 49 or the one with another body, and the others are told so
    assert len({response.content for response in answers if response.status_code == 200}) == 1
    assert {code(response)[1] for response in answers if response.status_code == 422} == {"idempotency_key_reused"}
    assert (count(Job), count(JobEvent), count(Outbox)) == (1, 1, 1)


def test_requests_to_different_servers_meet_in_the_database(
    server: str, upload: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the register of one process, everything depends on the transaction."""
    monkeypatch.setattr(once, "_in_flight", lambda *_, **__: nullcontext())
    body = {"model": "semift-small", "training_file": upload.labeled()}
    all_here = threading.Barrier(12)

    def order(_: int) -> httpx.Response:
        all_here.wait()
        return httpx.post(f"{server}{JOBS}", json=body, headers={"idempotency-key": "k", **AUTH}, timeout=120)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(order, range(12)))
    assert {response.status_code for response in answers} == {200}
    assert len({response.content for response in answers}) == 1
    assert count(Job) == 1
    assert sum("idempotent-replayed" in response.headers for response in answers) == 11


def test_the_same_key_is_answered_alike_for_a_day_and_another_body_is_refused(world: World) -> None:
    first = post(world, "a")
    again = post(world, "a")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    reordered = dict(reversed(world.order().items()))
    assert world.app.post(JOBS, json=reordered, headers={"idempotency-key": "a"}).content == first.content
    refused = post(world, "a", seed=3)
    assert code(refused) == (422, "idempotency_key_reused")
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert post(world, "b").json()["id"] != first.json()["id"]
    age(DAY + 60)
    assert post(world, "a").json()["id"] != first.json()["id"]
    assert count(Job) == 3


def test_expired_keys_are_swept(world: World) -> None:
    post(world, "a")
    age(DAY + 60)
    post(world, "b")
    with transaction() as session:
        sweep(session)
    with transaction(read_only=True) as session:
        assert session.scalars(select(Idempotency.key)).all() == ["key:b"]


def test_a_key_belongs_to_its_tenant(world: World) -> None:
    mine = post(world, "a").json()["id"]
    theirs = post(new_world(TestClient(world.app.app, headers=auth(add_key("other")))), "a")
    assert theirs.status_code == 200
    assert theirs.json()["id"] != mine


def test_a_refused_request_leaves_its_key_free(world: World) -> None:
    assert post(world, "a", training_file="file-none").status_code == 400
    assert count(Idempotency) == 0
    assert post(world, "a").status_code == 200


def test_a_crash_before_the_commit_leaves_nothing_to_wait_for(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = new_world(TestClient(create_app(), headers=AUTH, raise_server_exceptions=False))

    def crash(*_: object) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as broken:
        broken.setattr(service, "ring", crash)
        assert code(post(world, "a")) == (500, "internal_error")
    assert (count(Job), count(Idempotency)) == (0, 0)
    assert post(world, "a").status_code == 200
    assert count(Job) == 1


@contextmanager
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The next order stops after its checks; the function waits until it is there. It goes on at the end of the block."""
    arrived, go_on, check = threading.Event(), threading.Event(), service.checks.check_files
    first = iter([True])

    def slow(*arguments: Any) -> Any:
        if next(first, False):
            arrived.set()
            assert go_on.wait(120)
        return check(*arguments)

    def there() -> None:
        assert arrived.wait(120)

    monkeypatch.setattr(service.checks, "check_files", slow)
    try:
        yield there
    finally:
        go_on.set()


@pytest.mark.parametrize("headers", [{"idempotency-key": "a"}, {"x-stainless-retry-count": "1"}])
def test_what_is_in_flight_is_told_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    first = {**headers, "x-stainless-retry-count": "0"}
    with ThreadPoolExecutor(1) as pool:
        with stuck(monkeypatch) as there:
            running = pool.submit(world.app.post, JOBS, json=world.order(), headers=first)
            there()
            refused = world.app.post(JOBS, json=world.order(), headers=headers)
            assert code(refused) == (409, "request_in_progress")
            assert (refused.headers["retry-after"], refused.headers["x-should-retry"]) == ("1", "true")
        made = running.result(120)
    assert world.app.post(JOBS, json=world.order(), headers=headers).content == made.content
    assert count(Job) == 1


def test_a_retry_of_openais_client_is_the_request_of_the_last_ten_minutes(world: World) -> None:
    first = post(world, retry=0)
    assert post(world, retry=1).content == first.content
    assert post(world, retry=2).headers["idempotent-replayed"] == "true"
    on_purpose = post(world, retry=0)
    assert on_purpose.json()["id"] != first.json()["id"]
    assert post(world, retry=1).content == on_purpose.content
    assert post(world, retry=1, seed=3).json()["id"] != on_purpose.json()["id"]
    age(700)
    assert post(world, retry=1).json()["id"] not in (first.json()["id"], on_purpose.json()["id"])
    theirs = World(TestClient(world.app.app, headers=auth(add_key("default"))), world.labeled, world.unlabeled)
    assert post(theirs, retry=1).json()["id"] != post(world, retry=1).json()["id"]  # another program of the same tenant
    assert post(world).json()["id"] != post(world).json()["id"]  # no key, no count: nobody can know


def test_a_first_attempt_overtaken_by_its_retry_on_another_server_makes_no_second_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "_in_flight", lambda *_, **__: nullcontext())
    with ThreadPoolExecutor(1) as pool:
        with stuck(monkeypatch) as there:
            slow = pool.submit(post, world, retry=0)
            there()
            retry = post(world, retry=1)
        assert slow.result(120).content == retry.content
    assert count(Job) == 1


class LosesTheFirstAnswer(httpx.HTTPTransport):
    lost = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.url.path == JOBS and not self.lost:
            self.lost = True
            response.read()
            raise httpx.ReadTimeout("the answer was lost", request=request)
        return response


def test_the_stock_client_that_lost_an_answer_gets_the_one_job(server: str, upload: Uploads) -> None:
    transport = LosesTheFirstAnswer()
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, http_client=httpx.Client(transport=transport)) as client:
        job = client.fine_tuning.jobs.create(model="semift-small", training_file=upload.labeled())
    assert transport.lost
    with transaction(read_only=True) as session:
        assert session.scalars(select(Job.id)).all() == [job.id]


def test_an_upload_sent_twice_is_one_file(app: TestClient) -> None:
    def send(content: bytes, name: str = "rows.jsonl") -> httpx.Response:
        fields = {"purpose": "fine-tune"}
        return app.post("/v1/files", files={"file": (name, content)}, data=fields, headers={"idempotency-key": "up"})

    first = send(labeled())
    assert send(labeled()).content == first.content
    assert code(send(labeled(13))) == (422, "idempotency_key_reused")
    assert code(send(labeled(), "other.jsonl")) == (422, "idempotency_key_reused")
    assert [file["id"] for file in app.get("/v1/files").json()["data"]] == [first.json()["id"]]
    assert app.get(f"/v1/files/{first.json()['id']}").json() == first.json()


@pytest.mark.parametrize(
    "keys", [[""], ["x" * 256], ["a\x07b"], ["a\nb"], [" "], ["é"], ["one", "two"]], ids=lambda keys: repr(keys)[:20]
)
def test_a_key_that_cannot_be_one_is_refused(sqlite: str, keys: list[str]) -> None:
    world = new_world(TestClient(create_app(), headers=AUTH))
    headers = [(b"idempotency-key", key.encode("latin-1")) for key in keys]
    response = world.app.post(
        JOBS, json=world.order(), headers=[*headers, *((k.encode(), v.encode()) for k, v in JSON.items())]
    )
    assert code(response) == (400, "invalid_idempotency_key")
    assert response.json()["error"]["param"] == "Idempotency-Key"
    assert count(Job) == 0


def test_the_longest_key_is_accepted(world: World) -> None:
    assert post(world, "k" * 255).content == post(world, "k" * 255).content


def test_a_count_that_is_no_number_is_nothing(world: World) -> None:
    headers = {"x-stainless-retry-count": "many"}
    assert len({world.app.post(JOBS, json=world.order(), headers=headers).json()["id"] for _ in range(2)}) == 2

"""A real uvicorn on a free port for the stock client, and the same app in-process where only one request matters."""

from collections.abc import Iterator

import openai
import pytest
from fastapi.testclient import TestClient

from api.health import service as health
from api.main import create_app
from models import db
from tests.api.rows import labeled, unlabeled
from tests.api.watching import Watched
from tests.keys import AUTH, KEY
from tests.serving import serving


@pytest.fixture(autouse=True)
def refusals_are_in_the_envelope(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of every app a test makes: each answer from 400 up, with a code and a status that belong together."""
    monkeypatch.setattr(Watched, "seen", [], raising=False)
    monkeypatch.setattr("api.main.RequestHeaders", Watched)
    yield
    assert Watched.seen == []


@pytest.fixture(autouse=True)
def waits_as_long_as_it_takes(own_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools, connections and leases bear a machine that stands still for seconds. What must end soon is told so by its test."""
    monkeypatch.setattr(db, "POOL_TIMEOUT_SECONDS", 120)
    monkeypatch.setattr(db, "CONNECT_SECONDS", 120)
    monkeypatch.setattr(health, "CHECK_SECONDS", 120.0)
    monkeypatch.setattr(health, "BROKER_TIMEOUT_SECONDS", 120.0)
    monkeypatch.setenv("SEMIFT_LEASE_SECONDS", "300")


@pytest.fixture
def server(database: str) -> Iterator[str]:
    """http://127.0.0.1:port of a running service, on either database."""
    with serving() as url:
        yield url


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def app(database: str) -> Iterator[TestClient]:
    """Without lifespan: no background thread reads files or rings doorbells."""
    client = TestClient(create_app(), headers=AUTH)
    yield client
    client.close()


class Uploads:
    """Uploads through the stock client; ids by content."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def __call__(self, content: bytes, name: str = "rows.jsonl") -> str:
        return self._client.files.create(file=(name, content), purpose="fine-tune").id

    def labeled(self, rows: int = 12) -> str:
        return self(labeled(rows), "labeled.jsonl")

    def unlabeled(self, rows: int = 12) -> str:
        return self(unlabeled(rows), "unlabeled.jsonl")


@pytest.fixture
def upload(client: openai.OpenAI) -> Uploads:
    return Uploads(client)

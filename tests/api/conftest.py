"""A real uvicorn on a free port for the stock client, and the same app in-process where only one request matters."""

import threading
import time
from collections.abc import Iterator

import openai
import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.main import create_app
from tests.api.rows import labeled, unlabeled


@pytest.fixture
def server(database: str) -> Iterator[str]:
    """http://127.0.0.1:port of a running service, on either database."""
    config = uvicorn.Config(create_app(), host="127.0.0.1", port=0, log_level="error", ws="none")
    listening = config.bind_socket()
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    deadline = time.monotonic() + 20
    while not running.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running.started
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join(20)
    listening.close()
    assert not thread.is_alive()


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
def app(database: str) -> Iterator[TestClient]:
    """Without lifespan: no background thread reads files or rings doorbells."""
    client = TestClient(create_app())
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

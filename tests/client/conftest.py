"""The client against a real server on SQLite, and against scripted answers where a real server would have to misbehave."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from tests.keys import KEY
from tests.serving import serving

sys.path.insert(0, str(Path(__file__).parents[2] / "client"))  # works without `pip install ./client` too

from semift.cli import app
from semift.client import Client

Handler = Callable[[httpx.Request], httpx.Response]
Semift = Callable[..., Result]


@pytest.fixture
def server(sqlite: str) -> Iterator[str]:
    """http://127.0.0.1:port of a running service."""
    with serving() as url:
        yield url


@pytest.fixture
def semift(server: str, monkeypatch: pytest.MonkeyPatch) -> Semift:
    """`semift("jobs", "--json")`: the command against the server, in this process."""
    monkeypatch.setenv("SEMIFT_URL", server)
    monkeypatch.setenv("SEMIFT_API_KEY", KEY)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], Client]:
    """A client, and every client made after it, whose requests are answered by a function."""
    genuine = Client.__init__

    def use(handler: Handler) -> Client:
        def made(self: Client, url: str = "http://semift.test", api_key: str = "", **_: object) -> None:
            genuine(self, url, api_key, transport=httpx.MockTransport(handler))

        monkeypatch.setattr(Client, "__init__", made)
        monkeypatch.setattr("semift.client.RETRY_SECONDS", 0.0)
        return Client()

    return use

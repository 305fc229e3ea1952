"""What the client does when a server, or somebody in between, misbehaves."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from semift import ApiError, ChecksumMismatch, Client, SemiftError, Unreachable
from semift.errors import BadInput

from api.serve import configured
from tests.client.conftest import Handler

Scripted = Callable[[Handler], Client]


def test_the_server_s_envelope_becomes_an_error_with_its_fields(scripted: Scripted) -> None:
    error = {"message": "No.", "code": "invalid_cursor", "param": "after", "line": 3, "hint": "Try.", "request_id": "req_1"}
    client = scripted(lambda _: httpx.Response(400, json={"error": error}))
    with pytest.raises(ApiError, match=r"No\.") as caught:
        client.job("ftjob-1")
    found = caught.value
    assert (found.status, found.code, found.param, found.line, found.hint) == (400, "invalid_cursor", "after", 3, "Try.")
    assert found.as_json() == {"error": {**error, "status": 400}}


@pytest.mark.parametrize("body", ["<html>Welcome to nginx</html>", "[]", '"x"'])
def test_an_answer_that_is_not_this_api_s_is_no_server(scripted: Scripted, body: str) -> None:
    with pytest.raises(Unreachable, match="not a Semift server"):
        scripted(lambda _: httpx.Response(200, text=body)).version()


def test_an_error_without_an_envelope_is_told_by_its_status(scripted: Scripted) -> None:
    with pytest.raises(ApiError, match="answered 502"):
        scripted(lambda _: httpx.Response(502, text="Bad Gateway")).version()


def test_reads_are_tried_again_and_creations_are_not(scripted: Scripted) -> None:
    seen: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        if len(seen) < 3:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"id": "ftjob-1"})

    client = scripted(refuse)
    assert client.job("ftjob-1")["id"] == "ftjob-1"
    assert seen == ["GET"] * 3
    seen.clear()
    with pytest.raises(Unreachable, match="refused"):
        client.create_job({})
    assert seen == ["POST"]


def test_lists_are_read_page_by_page_up_to_the_limit(scripted: Scripted) -> None:
    asked: list[dict[str, str]] = []

    def page(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        first = int(request.url.params.get("after", "0"))
        ids = [{"id": str(i + 1)} for i in range(first, min(first + int(request.url.params["limit"]), 230))]
        return httpx.Response(200, json={"data": ids, "has_more": first + len(ids) < 230})

    client = scripted(page)
    assert [sample["id"] for sample in client.samples("j", 150, verdict="selected", round=None)] == [
        str(i + 1) for i in range(150)
    ]
    assert asked == [{"verdict": "selected", "limit": "100"}, {"verdict": "selected", "limit": "50", "after": "100"}]
    assert len(client.samples("j", 1000)) == 230


def test_a_key_is_sent_and_ids_cannot_leave_their_place(scripted: Scripted) -> None:
    requests: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"id": "x"})

    scripted(note)
    Client("http://semift.test/", "k1").job("../../files?x=1")
    assert requests[0].headers["authorization"] == "Bearer k1"
    assert requests[0].url.raw_path == b"/v1/fine_tuning/jobs/..%2F..%2Ffiles%3Fx%3D1"


def test_a_proxy_is_not_put_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        Client("http://127.0.0.1:1").version()
    assert not Client("http://localhost:1")._http.trust_env
    assert Client("http://semift.example")._http.trust_env


def test_an_idle_connection_is_given_up_before_its_server_closes_it() -> None:
    """Or a POST, which is never sent twice, meets the end of the connection it was sent on."""
    pool = Client("http://semift.example")._http._transport._pool  # type: ignore[attr-defined]
    assert pool._keepalive_expiry < configured(FastAPI()).timeout_keep_alive - 1


def test_the_key_of_this_machines_server_goes_to_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIFT_DATA_DIR", str(tmp_path))
    assert "authorization" not in Client("http://127.0.0.1:1")._http.headers  # there is none yet
    (tmp_path / "api-key").write_text("sk-semift-here\n")
    for url, key, sent in (
        ("http://127.0.0.1:1", "", "Bearer sk-semift-here"),
        ("http://localhost:1", "", "Bearer sk-semift-here"),
        ("http://127.0.0.1:1", "given", "Bearer given"),
        ("http://semift.example", "", None),
        ("http://127.0.0.1.semift.example", "", None),
    ):
        assert Client(url, key)._http.headers.get("authorization") == sent


def test_a_download_is_checked_and_a_bad_one_leaves_nothing(scripted: Scripted, tmp_path: Path) -> None:
    content = b"weights" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    served = 0

    def serve(request: httpx.Request) -> httpx.Response:
        nonlocal served
        served += 1
        assert request.url.path == "/v1/fine_tuning/jobs/j/artifacts/adapter/a b.bin"
        return httpx.Response(200, content=content)

    client = scripted(serve)
    path = client.download("j", {"path": "adapter/a b.bin", "bytes": 7000, "sha256": sha256}, tmp_path)
    assert path == tmp_path / "adapter" / "a b.bin"
    assert path.read_bytes() == content
    client.download("j", {"path": "adapter/a b.bin", "bytes": 7000, "sha256": sha256}, tmp_path)
    assert served == 1
    with pytest.raises(ChecksumMismatch, match="0000"):
        client.download("j", {"path": "adapter/a b.bin", "bytes": 7000, "sha256": "0" * 64}, tmp_path / "other")
    assert list((tmp_path / "other" / "adapter").iterdir()) == []


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_server_cannot_write_outside_the_folder(scripted: Scripted, tmp_path: Path, path: str) -> None:
    client = scripted(lambda _: httpx.Response(200, content=b"x"))
    with pytest.raises(SemiftError, match="outside the folder"):
        client.download("j", {"path": path, "bytes": 1, "sha256": ""}, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_refused_download_is_an_error_of_the_api(scripted: Scripted, tmp_path: Path) -> None:
    client = scripted(lambda _: httpx.Response(404, json={"error": {"message": "Gone.", "code": "artifact_not_found"}}))
    with pytest.raises(ApiError, match="Gone"):
        client.download("j", {"path": "a", "bytes": 1, "sha256": ""}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["http://[", "127.0.0.1:8642", "localhost:8642", "ftp://host", "http://", "http://a:port"])
def test_a_url_that_is_none_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput, match="no URL"):
        Client(url)

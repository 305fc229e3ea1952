"""Uploads and downloads: bytes in constant memory, names that are only shown, ranges, limits, reading in the background."""

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.files import reading
from api.files.form import clean_name
from api.main import create_app
from models.db import transaction
from models.tables import File
from tests.api.rows import labeled
from tests.api.sending import JOBS, upload
from tests.keys import AUTH
from tests.worker.watching import wait_until

MB = 1 << 20
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\rows.csv", "rows.csv"),
        ("a\x00b\x1b[31m\u202etxt.csv", "ab[31mtxt.csv"),
        ("é" * 300, "é" * 255),
        ("CON", "CON"),
        ("😀.jsonl", "😀.jsonl"),
        ("..", "upload"),
        ("", "upload"),
        (" \n", "upload"),
    ],
)
def test_a_file_name_is_text_to_show_and_nothing_else(given: str, shown: str) -> None:
    assert clean_name(given) == shown


def test_a_hostile_name_stays_inside_the_store(app: TestClient, tmp_path: Path) -> None:
    before = {path for path in tmp_path.parent.rglob("*") if "data" not in path.parts}
    file = upload(app, labeled(), "../../../escaped.jsonl")
    assert app.get(f"/v1/files/{file}").json()["filename"] == "escaped.jsonl"
    assert {path for path in tmp_path.parent.rglob("*") if "data" not in path.parts} == before


def test_the_same_bytes_twice_are_two_files_and_one_blob(app: TestClient, tmp_path: Path) -> None:
    first, second = upload(app, labeled()), upload(app, labeled())
    assert first != second
    sha256 = hashlib.sha256(labeled()).hexdigest()
    assert [path.name for path in (tmp_path / "data" / "blobs" / sha256[:2]).iterdir()] == [sha256]
    assert app.delete(f"/v1/files/{first}").json() == {"id": first, "object": "file", "deleted": True}
    assert app.get(f"/v1/files/{second}/content").content == labeled()


def test_content_is_served_in_ranges_and_revalidated(app: TestClient) -> None:
    content = labeled(200)
    path = f"/v1/files/{upload(app, content)}/content"
    whole = app.get(path)
    etag = whole.headers["etag"]
    assert (whole.content, whole.headers["accept-ranges"]) == (content, "bytes")
    for asked, expected in (("bytes=0-9", content[:10]), ("bytes=10-", content[10:]), ("bytes=-5", content[-5:])):
        part = app.get(path, headers={"range": asked})
        assert (part.status_code, part.content) == (206, expected)
    assert app.get(path, headers={"range": "bytes=0-9"}).headers["content-range"] == f"bytes 0-9/{len(content)}"
    resumed = app.get(path, headers={"range": "bytes=10-", "if-range": etag})
    assert resumed.content == content[10:]
    changed = app.get(path, headers={"range": "bytes=10-", "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, content)
    assert app.get(path, headers={"if-none-match": etag}).status_code == 304
    for nonsense in ("bytes=0-1,4-5", "lines=1-2", "bytes=x"):
        assert app.get(path, headers={"range": nonsense}).content == content
    beyond = app.get(path, headers={"range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{len(content)}"


def test_a_preview_shows_rows_as_they_are_understood(app: TestClient) -> None:
    file = upload(app, labeled(5))
    shown = app.get(f"/v1/files/{file}/preview?limit=2&offset=3").json()
    assert [row["raw"]["text"] for row in shown["rows"]] == ["labeled 3", "labeled 4"]
    assert shown["rows"][0]["mapped"]["answer"] == "pos"
    assert (shown["id"], shown["has_more"]) == (file, False)


def test_the_validation_report_names_every_row(app: TestClient) -> None:
    file = upload(app, b"text,label\na,b\n ,b\nc,d,e\n", "rows.csv")
    shown = app.get(f"/v1/files/{file}").json()
    assert (shown["status"], shown["status_details"][:18]) == ("error", "empty_text: line 3")
    report = app.get(f"/v1/files/{file}/validation").json()
    assert [(error["line"], error["code"]) for error in report["errors"]] == [(3, "empty_text"), (4, "wrong_column_count")]
    assert report["error_counts"] == {"empty_text": 1, "wrong_column_count": 1}


def test_large_uploads_are_read_in_the_background(database: str, configure: Any) -> None:
    configure(inline_validation_bytes=0)
    with TestClient(create_app(), headers=AUTH) as app:
        good, bad = upload(app, labeled()), upload(app, b"text,label\n,\n", "rows.csv")

        def states() -> list[str]:
            return [app.get(f"/v1/files/{file}").json()["status"] for file in (good, bad)]

        wait_until(lambda: "uploaded" not in states(), 120)
        assert states() == ["processed", "error"]
        assert app.post(JOBS, json={"model": "semift-small", "training_file": good}).status_code == 200


def test_a_file_left_unread_by_a_crash_is_read_at_the_next_start(database: str, configure: Any) -> None:
    configure(inline_validation_bytes=0)
    file = upload(TestClient(create_app(), headers=AUTH), labeled())  # this server never ran its threads
    with TestClient(create_app(), headers=AUTH) as app:
        wait_until(lambda: app.get(f"/v1/files/{file}").json()["status"] != "uploaded", 120)
        assert app.get(f"/v1/files/{file}").json()["contents"]["labeled"] == 12


def test_an_expired_file_goes_unless_a_job_reads_it(app: TestClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    used, unused = upload(app, labeled(), **fields), upload(app, labeled(), **fields)
    job = app.post(JOBS, json={"model": "semift-small", "training_file": used}).json()["id"]
    with transaction() as session:
        session.execute(update(File).values(expires_at=1.0))
    reading.look()
    assert [app.get(f"/v1/files/{file}").status_code for file in (used, unused)] == [200, 404]
    app.post(f"{JOBS}/{job}/cancel")
    reading.look()
    assert app.get(f"/v1/files/{used}").status_code == 404


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def process(sqlite: str, configure: Any, tmp_path: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The service as a process of its own, with a 70 MB limit on uploads."""
    configure(max_file_bytes=70 * MB)
    port = free_port()
    configure(port=port)
    command = [sys.executable, "-m", "api.serve"]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: server.poll() is not None or answers(url), 120)
        assert server.poll() is None, (tmp_path / "server.log").read_text()
        yield psutil.Process(server.pid), url
    finally:
        server.terminate()
        server.wait(120)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=120).status_code == 200
    except httpx.TransportError:
        return False


def highest_memory(process: psutil.Process, done: Event) -> int:
    highest = process.memory_info().rss
    while not done.wait(0.01):
        highest = max(highest, process.memory_info().rss)
    return highest


def test_64_megabytes_go_through_in_constant_memory(process: tuple[psutil.Process, str], tmp_path: Path) -> None:
    server, url = process
    upload_to = f"{url}/v1/files"
    form = {"files": {"file": ("l.jsonl", labeled())}, "data": {"purpose": "fine-tune"}}
    small = httpx.post(upload_to, headers=AUTH, timeout=120, **form)
    assert small.status_code == 200
    row = b'{"text": "' + b"word " * 400 + b'%07d", "label": "%s"}\n'
    path, digest = tmp_path / "large.jsonl", hashlib.sha256()
    with path.open("wb") as file:
        for number in range(33_600):
            line = row % (number, b"pos" if number % 2 else b"neg")
            digest.update(line)
            file.write(line)
    assert path.stat().st_size > 64 * MB
    before = server.memory_info().rss
    with ThreadPoolExecutor(1) as pool, path.open("rb") as file:
        done = Event()
        watching = pool.submit(highest_memory, server, done)
        sent = {"files": {"file": ("large.jsonl", file)}, "data": {"purpose": "fine-tune"}, "headers": AUTH}
        made = httpx.post(upload_to, **sent, timeout=120).json()

        def shown() -> Any:
            return httpx.get(f"{upload_to}/{made['id']}", headers=AUTH, timeout=120).json()

        wait_until(lambda: shown()["status"] != "uploaded", 200)
        done.set()
        peak = watching.result()
    read = shown()
    assert (made["sha256"], read["status"], read["contents"]["rows"]) == (digest.hexdigest(), "processed", 33_600)
    assert (peak - before) / MB < 32
    spool = tmp_path / "data" / "spool"
    assert list(spool.iterdir()) == []


def test_an_upload_over_the_limit_is_stopped_with_413(process: tuple[psutil.Process, str]) -> None:
    _, url = process
    body = {"file": ("large.bin", b"x" * (71 * MB))}
    declared = httpx.post(f"{url}/v1/files", files=body, data={"purpose": "fine-tune"}, headers=AUTH, timeout=120)
    assert (declared.status_code, declared.json()["error"]["code"]) == (413, "file_too_large")
    assert "70 MiB" in declared.json()["error"]["message"]

    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(72):
            yield b"x" * MB

    headers = {"content-type": "multipart/form-data; boundary=b", **AUTH}
    undeclared = httpx.post(f"{url}/v1/files", content=chunks(), headers=headers, timeout=120)
    assert (undeclared.status_code, undeclared.json()["error"]["param"]) == (413, "file")
    assert httpx.get(f"{url}/v1/files", headers=AUTH, timeout=120).json()["data"] == []

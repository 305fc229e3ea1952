"""Limits on what arrives, in time and in bytes, on a real server: slow and lying clients, full disks; nothing stays behind."""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from api import middleware
from api.main import create_app
from models.blobs import Blobs
from tests.api.rows import labeled
from tests.api.sending import JOBS
from tests.keys import AUTH, KEY
from tests.serving import serving

MB = 1 << 20
PREFIX = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
END = b"\r\n--b--\r\n"
FORM = "multipart/form-data; boundary=b"
Address = tuple[str, int]
LONG, SHORT = 120.0, 0.25  # seconds that no machine stands still for, and those of tests in which time runs out


@pytest.fixture
def serve(sqlite: str, configure: Any) -> Iterator[Callable[[float, float], Address]]:
    """Starts a server that waits so many seconds for a head, and so many for every 1000 bytes of a body. Its host and port."""
    with ExitStack() as until_the_end:

        def start(head_seconds: float, body_seconds: float) -> Address:
            bounds = {"head_seconds": head_seconds, "body_seconds": body_seconds, "body_bytes": 1000}
            configure(max_file_bytes=4 * MB, uploads_at_once=100, **bounds)
            return "127.0.0.1", int(until_the_end.enter_context(serving()).rpartition(":")[2])

        yield start


@pytest.fixture
def patient(serve: Callable[[float, float], Address]) -> Address:
    return serve(LONG, LONG)


@pytest.fixture
def hasty(serve: Callable[[float, float], Address]) -> Address:
    """Its time may be over before anything was sent, where the machine stands still: then it hangs up without a word."""
    return serve(SHORT, SHORT)


@pytest.fixture
def hasty_with_bodies(serve: Callable[[float, float], Address]) -> Address:
    return serve(LONG, SHORT)


def head(path: str = "/v1/files", method: str = "POST", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{lines}\r\n".encode()


@contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=LONG) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What the server says until it hangs up."""
    said = b""
    try:
        while piece := connection.recv(1 << 16):
            said += piece
    except ConnectionResetError:
        pass  # it hung up while we were still sending
    return said


def refusal(said: bytes) -> tuple[int, str]:
    """Status and code of the one answer in `said`, after which the connection was closed."""
    top, _, body = said.partition(b"\r\n\r\n")
    assert re.search(rb"(?i)^connection: close\r?$", top, re.MULTILINE), said
    error = json.loads(body)["error"]
    assert error["request_id"]
    assert error["hint"]
    return int(top.split()[1]), error["code"]


def listing(address: Address) -> httpx.Response:
    return httpx.get(f"http://{address[0]}:{address[1]}/v1/files", headers=AUTH, timeout=LONG)


def stored(address: Address) -> list[Any]:
    return list(listing(address).json()["data"])


def left_over(tmp_path: Path) -> list[Path]:
    """Files of unfinished uploads. Those that have no name at all are seen in `open_spools`."""
    return [
        path
        for path in (tmp_path / "data").rglob("*")
        if path.is_file() and ("spool" in path.parts or "incoming" in path.parts)
    ]


def open_spools() -> int:
    """Deleted files this process holds open: where Starlette keeps parts that are too large for memory."""
    return sum("/spool/" in str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


def settled(check: Callable[[], bool]) -> bool:
    """Whether `check` comes true: the server ends a request a moment after its client has gone."""
    deadline = time.monotonic() + LONG
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)
    return check()


def said_to(address: Address, begin: bytes) -> bytes:
    """What the server says to `begin`. Whom it took for silent, since nothing came from here in time, begins once more."""
    said, deadline = b"", time.monotonic() + LONG
    while not said and time.monotonic() < deadline:
        with connected(address) as connection, suppress(OSError):
            connection.sendall(begin)
            said = everything(connection)
    return said


def test_a_head_that_does_not_end_is_answered_408(hasty: Address) -> None:
    said = said_to(hasty, b"POST /v1/files HTTP/1.1\r\nhost: x\r\nx-slow: ")
    assert refusal(said) == (408, "request_timeout")


def test_a_connection_that_says_nothing_is_closed(hasty: Address) -> None:
    with connected(hasty) as connection:
        assert everything(connection) == b""


def test_the_second_head_of_a_connection_is_waited_for_no_longer(patient: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(patient) as connection:
        connection.sendall(head("/healthz", "GET"))
        assert b'{"status":"ok"}' in connection.recv(1 << 16)
        monkeypatch.setattr("api.serve.settings", lambda: SimpleNamespace(head_seconds=SHORT))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhos")
        assert refusal(everything(connection)) == (408, "request_timeout")


def drip(connection: socket.socket, piece: bytes, stop: threading.Event) -> None:
    try:
        while not stop.wait(0.02):
            connection.sendall(piece)
    except OSError:
        pass  # the server hung up, as it should


@pytest.mark.parametrize(
    ("path", "media", "begin"),
    [("/v1/files", FORM, PREFIX + PART), (JOBS, "application/json", b'{"model": "')],
    ids=["upload", "order"],
)
def test_a_body_that_drips_is_answered_408_and_leaves_nothing(
    hasty_with_bodies: Address, tmp_path: Path, path: str, media: str, begin: bytes
) -> None:
    with connected(hasty_with_bodies) as connection:
        connection.sendall(head(path, content_type=media, content_length="100000") + begin)
        stop = threading.Event()
        thread = threading.Thread(target=drip, args=(connection, b"x", stop))
        thread.start()
        said = everything(connection)
        stop.set()
        thread.join()
    assert refusal(said) == (408, "request_timeout")
    assert (stored(hasty_with_bodies), left_over(tmp_path), open_spools()) == ([], [], 0)


def test_a_slow_but_steady_upload_is_accepted(patient: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes three times the deadline, at a multiple of the rate that is asked for, by a clock that is put on."""
    later = 0.0
    clock = {"monotonic": lambda: time.monotonic() + later, "perf_counter": time.perf_counter}
    monkeypatch.setattr(middleware, "time", SimpleNamespace(**clock))
    content = b"".join(labeled(20, first=20 * i) for i in range(40))
    body = PREFIX + PART + content + END
    with connected(patient) as connection:
        connection.sendall(head(content_type=FORM, content_length=str(len(body)), connection="close"))
        pieces = 30
        size = -(-len(body) // pieces)
        for start in range(0, len(body), size):
            time.sleep(0.025)  # the server has begun to wait
            later += 3 * LONG / pieces
            connection.sendall(body[start : start + size])
        said = everything(connection)
    assert said.startswith(b"HTTP/1.1 200")
    assert stored(patient)[0]["contents"]["labeled"] == 800


def answers(address: Address) -> bool:
    """False where this machine stood still in the middle of our own head."""
    with suppress(httpx.TransportError):
        return listing(address).status_code == 200
    return False


def test_many_slow_connections_keep_nobody_else_waiting(hasty: Address) -> None:
    slow, silent = [], set()
    for number in range(100):
        began = time.monotonic()
        connection = socket.create_connection(hasty, timeout=LONG)
        with suppress(OSError):
            connection.sendall(head(content_type=FORM, content_length="9999") + PREFIX if number % 2 else b"GET / HT")
        slow.append(connection)
        if time.monotonic() - began > SHORT / 2:  # nothing may have come of it in time
            silent.add(connection)
    assert settled(lambda: answers(hasty))  # while all of them are open
    said = {connection: everything(connection) for connection in slow}
    assert {refusal(said[connection]) for connection in slow if connection not in silent} == {(408, "request_timeout")}
    for connection in slow:
        connection.close()

    def open_connections() -> int:
        found = psutil.Process().net_connections("tcp")
        return sum(one.laddr.port == hasty[1] and one.status == psutil.CONN_ESTABLISHED for one in found)

    assert settled(lambda: open_connections() == 0)


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(patient: Address, tmp_path: Path) -> None:
    for begin in (b"", PREFIX[:20], PREFIX + PART, PREFIX + PART + b"x" * (2 * MB)):
        with connected(patient) as connection:
            connection.sendall(head(content_type=FORM, content_length=str(3 * MB)) + begin)
    assert settled(lambda: open_spools() == 0)
    assert (stored(patient), left_over(tmp_path)) == ([], [])


def test_a_body_shorter_than_it_says_is_a_mismatch(patient: Address, caplog: pytest.LogCaptureFixture) -> None:
    body = PREFIX + PART + labeled() + END
    with connected(patient) as connection:
        connection.sendall(head(content_type=FORM, content_length=str(len(body) + 500)) + body)
        connection.shutdown(socket.SHUT_WR)
        said = everything(connection)
    assert said == b"" or refusal(said) == (400, "length_mismatch")
    assert stored(patient) == []
    assert "unhandled" not in caplog.text


def test_a_body_longer_than_it_says_is_not_another_request(patient: Address) -> None:
    body = b'{"model": "semift-small"}'
    with connected(patient) as connection:
        connection.sendall(head(JOBS, content_type="application/json", content_length=str(len(body))) + body + b'"more"}')
        assert refusal(everything(connection)) == (400, "invalid_http")


@pytest.mark.parametrize(
    ("smuggled", "code"),
    [
        ({"content_length": "5", "Content_Length": "6"}, (400, "invalid_http")),
        ({"content_length": "5", "transfer_encoding": "chunked"}, (400, "invalid_http")),
        ({"content_length": "-1"}, (400, "invalid_http")),
        ({"x_long": "x" * 100_000}, (431, "head_too_large")),
        ({f"x_{number}": "1" for number in range(1000)}, (431, "head_too_large")),
        ({"x_line": "a\rb"}, (400, "invalid_http")),
    ],
    ids=["two lengths", "length and chunks", "negative", "100 KB header", "1000 headers", "CR in a value"],
)
def test_a_head_that_could_mean_two_things_or_is_endless_closes_the_connection(
    patient: Address, smuggled: dict[str, str], code: tuple[int, str]
) -> None:
    with connected(patient) as connection:
        connection.sendall(head("/v1/models", "GET", **smuggled))
        assert refusal(everything(connection)) == code


def test_a_head_without_an_end_is_not_kept_in_memory(patient: Address) -> None:
    with connected(patient) as connection:
        try:
            for _ in range(100):
                connection.sendall(b"GET / HTTP/1.1\r\nx-long: " + b"x" * 10_000)
        except OSError:
            pass
        assert refusal(everything(connection)) == (431, "head_too_large")


def test_an_upload_over_the_limit_is_refused_with_its_first_byte_too_many(patient: Address, tmp_path: Path) -> None:
    declared = head(content_type=FORM, content_length=str(50 * MB))
    with connected(patient) as connection:
        connection.sendall(declared)
        assert refusal(everything(connection)) == (413, "file_too_large")  # not one byte of it was sent
    chunk = b"%x\r\n%s\r\n" % (MB, b"x" * MB)
    with connected(patient) as connection:
        start = b"%x\r\n%s\r\n" % (len(PREFIX + PART), PREFIX + PART)
        connection.sendall(head(content_type=FORM, transfer_encoding="chunked") + start)
        sent = 0
        try:
            for _ in range(64):
                connection.sendall(chunk)
                sent += MB
        except OSError:
            pass
        assert refusal(everything(connection)) == (413, "file_too_large")
    assert sent < 32 * MB  # what fits into the buffers between us, not the whole of it
    assert settled(lambda: open_spools() == 0)
    assert (stored(patient), left_over(tmp_path)) == ([], [])


def test_what_was_not_read_closes_the_connection_and_what_was_does_not(patient: Address) -> None:
    with connected(patient) as connection:
        connection.sendall(head("/v1/nothing", content_length="100000", content_type="application/json"))
        assert refusal(everything(connection)) == (404, "not_found")
    with connected(patient) as connection:
        for _ in range(2):
            connection.sendall(head(JOBS, content_type="application/json", content_length="2") + b"{}")
            assert b"missing_field" in connection.recv(1 << 16)


def test_compressed_uploads_are_refused(patient: Address) -> None:
    files = {"file": ("a.jsonl", labeled())}
    headers = {"content-encoding": "gzip", **AUTH}
    refused = httpx.post(
        f"http://{patient[0]}:{patient[1]}/v1/files", files=files, data={"purpose": "fine-tune"}, headers=headers
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_encoding")


# --- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB at the data folder of the test."""
    place = tmp_path / "data"
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small disk needs root")
    place.mkdir(exist_ok=True)
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def send(app: TestClient, size: int) -> httpx.Response:
    row = b'{"text": "' + b"word " * 200 + b'", "label": "pos"}\n'
    content = row * (size // len(row))
    return app.post("/v1/files", files={"file": ("large.jsonl", content)}, data={"purpose": "fine-tune"})


def test_a_full_disk_is_507_and_what_was_written_is_gone(small_disk: Path, postgresql: str) -> None:
    """The form is spooled on it, or fits there and the blob does not."""
    with TestClient(create_app(), headers=AUTH) as app:
        assert send(app, MB // 2).status_code == 200
        free = shutil.disk_usage(small_disk).free
        for size in (20 * MB, 5 * MB):
            refused = send(app, size)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (507, "storage_full")
            assert refused.headers["x-should-retry"] == "false"
            assert error["hint"]
            assert settled(lambda: shutil.disk_usage(small_disk).free == free)
        assert len(app.get("/v1/files").json()["data"]) == 1
        assert send(app, MB // 2).status_code == 200


def test_a_file_size_limit_of_the_system_is_a_full_disk_too(sqlite: str, tmp_path: Path) -> None:
    """RLIMIT_FSIZE, where no small disk can be mounted."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from models.blobs import Blobs\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "store = Blobs(Path(sys.argv[1], 'blobs').as_uri(), spool=Path(sys.argv[1], 'spool'))\n"
        "import io\n"
        "try: store.put(io.BytesIO(b'x' * (2 << 20)))\n"
        "except OSError as full: sys.stdout.write(str(full.errno))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == errno.EFBIG
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "data" not in path.parts] == []


def test_a_full_database_disk_is_507_as_well(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OperationalError("insert", {}, Exception("database or disk is full"))

    monkeypatch.setattr(Blobs, "put", full)
    refused = send(TestClient(create_app(), headers=AUTH, raise_server_exceptions=False), 2000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")

"""The embedded server: one command up, one signal down, nothing left behind."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from api.up import is_loopback
from tests.keys import auth

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "api.up"]


def wait_for(what: str, true: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} took longer than {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[tuple[psutil.Process, str, list[psutil.Process]]]:
    """The running command, its URL, and its children."""
    out = tmp_path / "up.log"
    with out.open("wb") as log:
        arguments = ["--data-dir", str(tmp_path / "here"), "--port", "0"]
        started = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, env=dict(os.environ), stdout=log, stderr=log)
    process = psutil.Process(started.pid)
    children: list[psutil.Process] = []
    try:
        wait_for("the announcement", lambda: "Ctrl-C stops" in out.read_text() or started.poll() is not None)
        found = re.search(r"http://\S+", out.read_text())
        assert found, out.read_text()
        children = process.children(recursive=True)
        yield process, found[0], children
    finally:
        started.kill()
        started.wait()
        psutil.wait_procs(children, 60)
        for child in children:
            if child.is_running():
                child.kill()


def test_one_command_serves_on_a_fresh_folder_and_ends_with_its_worker(
    up: tuple[psutil.Process, str, list[psutil.Process]], tmp_path: Path
) -> None:
    process, url, children = up
    wait_for("readiness", lambda: httpx.get(f"{url}/readyz", timeout=120).json()["status"] == "ready")
    key = tmp_path / "here" / "api-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert httpx.get(f"{url}/v1/models", timeout=120).status_code == 401
    owner = auth(key.read_text().strip())
    assert httpx.get(f"{url}/v1/models", headers=owner, timeout=120).status_code == 200
    said = (tmp_path / "up.log").read_text()
    assert str(key) in said
    assert "sk-semift-" not in said  # a log is no place for it; a terminal is
    assert any("celery" in " ".join(child.cmdline()) for child in children)
    assert (tmp_path / "here" / "semift.db").exists()
    worker_log = tmp_path / "here" / "worker.log"
    wait_for("the worker's start", lambda: "ready" in worker_log.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    gone, alive = psutil.wait_procs(children, 60)
    assert (len(gone), alive) == (len(children), [])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_server_takes_its_worker_along(up: tuple[psutil.Process, str, list[psutil.Process]], tmp_path: Path) -> None:
    process, _, children = up
    worker_log = tmp_path / "here" / "worker.log"
    wait_for("the worker's start", lambda: "ready" in worker_log.read_text())
    process.kill()
    _, alive = psutil.wait_procs(children, 120)
    assert alive == []


def test_it_does_not_listen_beyond_this_machine_without_a_key(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "--host", "0.0.0.0", "--port", "0"], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "semift keys create" in done.stdout


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.com", False)],
)
def test_what_is_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback

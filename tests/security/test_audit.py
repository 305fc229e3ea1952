"""The watch over the test suite catches what it is there for; that it is on, the last test shows."""

import os
import pickle
import socket
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.watch import ROOT, WATCH, Forbidden, is_near, written


@pytest.fixture
def caught() -> Iterator[list[str]]:
    """What this test has done on purpose; it is taken from the watch's list again."""
    before = len(WATCH.seen)
    made: list[str] = []
    yield made
    made.extend(WATCH.seen[before:])
    del WATCH.seen[before:]


def test_unpickling_is_stopped(caught: list[str]) -> None:
    data = pickle.dumps(OrderedDict(a=1))
    with pytest.raises(Forbidden, match=r"pickle\.find_class"):
        pickle.loads(data)


def test_a_shell_is_stopped(caught: list[str]) -> None:
    with pytest.raises(Forbidden, match=r"os\.system"):
        os.system("true")


def test_a_connection_beyond_this_machine_is_stopped(caught: list[str]) -> None:
    with socket.socket() as probe, pytest.raises(Forbidden, match=r"192\.0\.2\.1"):
        probe.connect(("192.0.2.1", 80))


def test_a_file_written_elsewhere_is_noted(caught: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "written-by-a-test"
    monkeypatch.setattr(WATCH, "_writable", ("/nowhere",))  # this checkout may itself lie in a temporary folder
    path.write_text("x")
    path.unlink()
    assert WATCH.seen[-1] == f"open: {path}"


def test_what_tests_do_all_day_is_left_alone(tmp_path: Path) -> None:
    before = list(WATCH.seen)
    (tmp_path / "x").write_text("x")
    (ROOT / "Makefile").read_text()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        socket.create_connection(server.getsockname(), timeout=60).close()
    assert before == WATCH.seen


@pytest.mark.parametrize(
    ("address", "near"),
    [
        *[(("127.0.0.1", 1), True), (("::1", 1, 0, 0), True), (("localhost", 1), True), ("/run/x.sock", True)],
        *[(("10.0.0.1", 1), False), (("169.254.169.254", 80), False), (("example.org", 443), False), (("::", 1, 0, 0), False)],
    ],
)
def test_near_is_this_machine(address: object, near: bool) -> None:
    assert is_near(address) is near


def test_writing_is_told_from_reading_by_mode_and_by_flags() -> None:
    assert written(("a", "r", os.O_RDONLY)) is None
    assert written(("a", "rb+", 0)) == "a"
    assert written((b"a", None, os.O_WRONLY | os.O_CREAT)) == "a"
    assert written(("a", None, os.O_RDONLY | os.O_DIRECTORY)) is None
    assert written((3, "w", 0)) is None

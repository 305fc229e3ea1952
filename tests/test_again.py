"""Which failures CI looks at a second time."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import again


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`ran(failed names, exit codes)`: (exit code, names of every run)."""

    def go(names: list[str] | None, codes: list[int]) -> tuple[int, list[list[str]]]:
        cache, calls, left = tmp_path / "lastfailed", list[list[str]](), iter(codes)
        if names is not None:
            cache.write_text(json.dumps(dict.fromkeys(names, True)))
        monkeypatch.setattr(again, "failed", lambda read=again.failed: read(cache))

        def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
            calls.append(command[6:])
            return subprocess.CompletedProcess(command, next(left))

        monkeypatch.setattr(subprocess, "run", run)
        return again.main(), calls

    return go


def test_one_or_two_must_pass_three_times_and_are_named(ran: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(["b::x", "a::y[1]"], [0, 0, 0]) == (0, [["a::y[1]", "b::x"]] * 3)
    assert "FAILED FIRST, THEN PASSED 3 TIMES ALONE (look at it): a::y[1], b::x" in capsys.readouterr().out


def test_one_that_fails_again_has_failed(ran: Any) -> None:
    assert ran(["a::x"], [0, 1]) == (1, [["a::x"]] * 2)


@pytest.mark.parametrize("names", [None, [], ["a", "b", "c"]])
def test_many_failures_or_none_that_has_a_name_are_not_run_again(ran: Any, names: list[str] | None) -> None:
    assert ran(names, []) == (1, [])

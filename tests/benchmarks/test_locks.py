"""Locks of processes that live, of those that died, and of those whose number was used again."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.quality.locks import Busy, held, owner


def test_a_held_lock_is_busy_and_is_gone_afterwards(tmp_path):
    path = tmp_path / "piece.lock"
    with held(path):
        with pytest.raises(Busy), held(path):
            pass
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    with held(path):
        pass


def test_a_lock_is_let_go_when_its_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path / "piece.lock"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    lines = ("import os, sys", "from pathlib import Path", "from benchmarks.quality.locks import held")
    code = "\n".join([*lines, "with held(Path(sys.argv[1])): os._exit(9)"])
    path = tmp_path / "piece.lock"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert (done.returncode, path.is_file()) == (9, True)
    with held(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "free"),
    [({"born": "1"}, True), ({"pid": 2**22 + 1}, True), ({"host": "elsewhere"}, False), ({}, False)],
    ids=["number used again", "no such process", "another host", "alive"],
)
def test_only_a_process_that_is_known_to_be_gone_loses_its_lock(tmp_path, changes, free):
    path = tmp_path / "piece.lock"
    path.write_text(json.dumps(owner(os.getpid()) | changes))
    if free:
        with held(path):
            pass
    else:
        with pytest.raises(Busy), held(path):
            pass

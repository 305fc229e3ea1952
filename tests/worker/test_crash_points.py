"""SIGKILL at every named place of worker and runner, on both databases: the job ends with the reference result."""

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import crash
from models.db import engine
from models.settings import CRASH_AT, Settings
from models.tables import Chunk, Stage, TrainingState
from tests.rows import add_file, add_job, get_job, let_lease_expire, set_job
from tests.worker import crash_worker
from tests.worker.fake_runner import COMMAND, spec_for
from tests.worker.watching import chunk_runs, how_often, result, rows

POINTS = [*crash.POINTS["worker"], *crash.POINTS["runner"]]
LATER = {"stage.committed", "chunk.committed", "checkpoint.put", "save.committed", "blob.published"}  # killed the second time
MOST_STARTS = 4
REFERENCE: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats that a short job lives to see, under a lease that outlasts a machine's standstill: workers are copies of us."""
    monkeypatch.setattr(Settings, "heartbeat_seconds", 0.5)
    configure(lease_seconds=60, checkpoint_steps=2, checkpoint_seconds=0)


def new_job(folder: Path) -> tuple[str, dict[str, Any]]:
    folder.mkdir()
    spec = spec_for(folder, items=3, step_seconds=0.06, chunk_seconds=0.06)
    return add_job(spec=spec, unlabeled_file=add_file(b"{}")), spec


def run_to_the_end(job: str, log: Path, crash_at: str = "", command: tuple[str, ...] = COMMAND) -> None:
    """Starts a worker, again whenever it was killed. The lease of a dead one is over at once: nothing here is about waiting."""
    for _ in range(MOST_STARTS):
        status = os.waitstatus_to_exitcode(os.waitpid(forked(job, log, crash_at, command), 0)[1])
        if status == 0:
            return
        assert status == -signal.SIGKILL, log.read_text()[-3000:]
        if get_job(job).status == "running":
            let_lease_expire(job)
        set_job(job, next_attempt_at=None)
    raise AssertionError(f"{MOST_STARTS} workers died at {crash_at}")


def forked(job: str, log: Path, crash_at: str, command: tuple[str, ...]) -> int:
    """The pid of a worker: a copy of this process, which saves the imports, with database connections of its own."""
    engine().dispose()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads that the copy does not use
        pid = os.fork()
    if pid:
        return pid
    try:
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        signal.alarm(600)
        os.environ[CRASH_AT] = crash_at
        crash._WANTED, crash._passed = crash._wanted(crash_at), 0
        crash_worker.main(job, command)
        os._exit(0)
    finally:
        os._exit(1)


def check(job: str, spec: dict[str, Any]) -> None:
    row = get_job(job)
    assert (row.status, row.error) == ("succeeded", None)
    found = result(job)
    assert found == REFERENCE.setdefault("result", found)
    assert chunk_runs(job) == [1] * 3
    assert {stage.status for stage in rows(Stage, job)} == {"done"}
    assert {chunk.status for chunk in rows(Chunk, job)} == {"done"}
    assert rows(TrainingState, job) == [], "checkpoints are gone, and so are their rows"
    again = sum(times - 1 for times in how_often(spec, "step").values())
    assert again <= 3, "a crash costs an interval of two steps, and the one it happened in"


@pytest.fixture
def reference(tmp_path: Path, short_periods: None) -> None:
    """What the job ends with when nothing happens to it: the same on both databases."""
    if not REFERENCE:
        job, spec = new_job(tmp_path / "quiet")
        run_to_the_end(job, tmp_path / "quiet.log")
        check(job, spec)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_changes_no_result(tmp_path: Path, reference: None, point: str) -> None:
    job, spec = new_job(tmp_path / "job")
    once = tmp_path / "killed"
    run_to_the_end(job, tmp_path / "worker.log", f"{point}:{2 if point in LATER else 1}@{once}")
    assert once.exists(), "the place was passed, and somebody died there"
    check(job, spec)


def test_a_point_that_nobody_passes_is_refused() -> None:
    with pytest.raises(ValueError, match="no crash point: 'warmup'"):
        crash._wanted("warmup:1")


def test_every_point_is_somewhere_in_the_code_once() -> None:
    root = Path(crash.__file__).parents[1]
    sources = [path.read_text() for room in ("api", "models", "worker") for path in (root / room).rglob("*.py")]
    for point in [point for points in crash.POINTS.values() for point in points]:
        assert sum(source.count(f'crash_point("{point}")') for source in sources) == 1, point

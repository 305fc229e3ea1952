"""A worker that is alive and serves nobody: its heart must not keep the job from the workers that could."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.blobs import Blobs
from models.queries import leases
from models.settings import settings
from tests.rows import TENANT, add_file, add_job, get_job, let_lease_expire
from tests.worker.fake_runner import spec_for
from tests.worker.watching import alive, chunk_runs, did, result, runners, wait_until
from tests.worker.working import at_work, take_no_more, undisturbed, work
from worker import heart
from worker import supervisor as supervising

LONG_SECONDS = 3600


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=60)


class Hang:
    """`wrap(function)`: the first call hangs until `let_go()`, as one on a connection that is half open."""

    def __init__(self) -> None:
        self._over, self.begun = threading.Event(), threading.Event()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*given: Any, **named: Any) -> Any:
            if not self.begun.is_set():
                self.begun.set()
                self._over.wait(240)
            return function(*given, **named)

        return instead

    def let_go(self) -> None:
        """Returns when nobody hangs any more."""
        self._over.set()
        for thread in threading.enumerate():
            if thread.name == "semift-beat":
                thread.join(60)


@pytest.fixture
def hang() -> Iterator[Hang]:
    made = Hang()
    yield made
    made.let_go()


def test_a_worker_that_hangs_in_an_answer_loses_its_job_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: Hang
) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    hasty = settings().model_copy(update={"stall_serving_seconds": 0.1})
    spec = spec_for(tmp_path)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with monkeypatch.context() as patched:
        patched.setattr(Blobs, "put_path", hang.wrap(Blobs.put_path))
        stuck = threading.Thread(target=work)
        stuck.start()
        assert hang.begun.wait(120)
        with monkeypatch.context() as impatient:  # from now on: nothing that is merely slow is given up
            impatient.setattr(heart, "settings", lambda: hasty)
            wait_until(lambda: not alive(runners(spec)[0]))
            wait_until(lambda: not any(thread.name.startswith("semift-heart") for thread in threading.enumerate()))
        let_lease_expire(job)  # nobody prolongs it any more
        first = get_job(job).lease_token
        with at_work("another") as other:
            wait_until(lambda: other.work() or get_job(job).status == "succeeded")
    assert get_job(job).lease_token > first
    assert get_job(job).worker == "another"
    hang.let_go()
    stuck.join(120)
    assert not stuck.is_alive()
    assert result(job) == expected, "what the first had in hand it may write nowhere"
    assert chunk_runs(job) == [1] * 6


def test_a_heartbeat_that_hangs_does_not_keep_the_runner_alive(
    tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, hang: Hang
) -> None:
    configure(lease_seconds=LONG_SECONDS)
    spec = spec_for(tmp_path, chunk_seconds=LONG_SECONDS)
    job = add_job(spec=spec)
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 0"))
        take_no_more(monkeypatch)
        monkeypatch.setattr(heart, "LEASE_SHARE", 1e-6)  # of this long one, it is over when the first beat has hung
        monkeypatch.setattr(leases, "heartbeat", hang.wrap(leases.heartbeat))
        wait_until(lambda: not alive(runners(spec)[0]))
    assert get_job(job).status == "running", "nothing was written: the sweeper finds it"


def test_a_job_whose_files_take_longer_than_a_lease_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = add_job(spec=spec_for(tmp_path))
    write_order = supervising.write_order

    def slow(*given: Any) -> Any:
        for _ in range(2):  # leases that are over as the files are still being fetched
            let_lease_expire(job)
            wait_until(lambda: get_job(job).lease_until)
        return write_order(*given)

    monkeypatch.setattr(supervising, "write_order", slow)
    work()
    row = get_job(job)
    assert row.status == "succeeded"
    assert len(runners(row.spec)) == 1


def test_a_worker_told_to_end_while_it_fetches_files_gives_the_job_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(spec=spec_for(tmp_path))
    write_order = supervising.write_order

    def told(*given: Any) -> Any:
        supervisor.stop()
        wait_until(lambda: supervisor._heart and supervisor._heart.why)
        return write_order(*given)

    monkeypatch.setattr(supervising, "write_order", told)
    with at_work() as supervisor:
        wait_until(lambda: get_job(job).status == "queued")
    assert get_job(job).attempt == 0
    assert runners(get_job(job).spec) == []


STRAY = """
import pathlib, subprocess, sys
sys.stdin.readline()
stray = subprocess.Popen(["sleep", "3600"], start_new_session=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
pathlib.Path(sys.argv[1]).write_text(str(stray.pid))
"""


def test_a_dead_runner_whose_pipe_somebody_holds_open_is_dead(tmp_path: Path, configure: Callable[..., None]) -> None:
    """In a session of its own, where no signal to the runner's group finds it."""
    configure(max_attempts=1)
    job, pid = add_job(spec=spec_for(tmp_path)), tmp_path / "pid"
    with at_work(command=(sys.executable, "-c", STRAY, str(pid))):
        wait_until(lambda: get_job(job).status == "failed")
        assert alive(int(pid.read_text())), "and it still holds the pipe"
        os.kill(int(pid.read_text()), signal.SIGKILL)
    error = get_job(job).error
    assert error
    assert error["code"] == "worker_lost"


def test_every_line_about_a_job_says_whose_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from models import logs

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.Lines("worker"))
    job = add_job(spec=spec_for(tmp_path, fault="bug"))
    logger = logging.getLogger("worker")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        work()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("{") and job in line]
    assert {'"process": "worker"', '"process": "runner"'} <= {part for line in said for part in line[1:-1].split(", ")}
    assert [line for line in said if f'"tenant": "{TENANT}"' not in line] == []

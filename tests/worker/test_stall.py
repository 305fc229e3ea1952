"""A runner that lives and gets no further: its worker beats on, the job does not wait for ever.

No limit is short here, or a machine that stands still would be taken for a runner that hangs: silence is made long instead.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.db import transaction
from models.queries import leases
from models.settings import settings
from models.tables import Event
from tests.rows import add_file, add_job, get_job, let_lease_expire, set_job
from tests.worker.fake_runner import spec_for
from tests.worker.watching import alive, chunk_runs, did, events, how_often, lines, result, rows, runners, wait_until
from tests.worker.working import at_work, notice, undisturbed, work
from worker.desk import Desk
from worker.heart import Heart

AT_LENGTH = 1e6


@pytest.fixture(autouse=True)
def periods(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=60, checkpoint_steps=1, checkpoint_seconds=0)


@pytest.fixture
def stretch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Desk], bool]], None]:
    """`stretch(hangs)`: the silence of a runner at a step or a batch of which `hangs(desk)` is true lasts a million times."""
    silence = Desk.silence

    def apply(hangs: Callable[[Desk], bool]) -> None:
        def stretched(desk: Desk) -> tuple[float, str]:
            seconds, doing = silence(desk)
            return (seconds * AT_LENGTH if doing != "loading" and hangs(desk) else seconds), doing

        monkeypatch.setattr(Desk, "silence", stretched)

    return apply


@pytest.mark.parametrize(
    ("fault", "last", "doing"),
    [
        ("hangs at step 3", "step 3 of warmup", "a training step"),
        ("hangs at chunk 2", "begin chunk 2", "a batch of rows"),
    ],
    ids=["step", "chunk"],
)
def test_a_runner_that_hangs_is_killed_and_the_job_fails_after_three_attempts_without_progress(
    tmp_path: Path, stretch: Callable[..., None], fault: str, last: str, doing: str
) -> None:
    spec = spec_for(tmp_path, fault=fault)
    job = add_job(spec=spec)
    stretch(lambda desk: desk.lease.job_id == job and lines(spec)[-1][1] == last)
    other = add_job(spec=spec_for(tmp_path, log=str(tmp_path / "other")))
    while get_job(job).status == "queued":
        work()
        set_job(job, next_attempt_at=None)
    assert get_job(job).attempt == 3
    assert len(runners(spec)) == 4, "the very first attempt made progress, and does not count"
    assert get_job(other).status == "succeeded", "it blocked nobody"
    row = get_job(job)
    assert row.status == "failed"
    assert row.error
    assert row.error["code"] == "stalled"
    assert f"at {doing}" in row.error["message"]
    back = [event.data for event in rows(Event, job) if event.message.startswith("Back in the queue")]
    assert back == [{"reason": "stalled"}] * 3
    assert not any(alive(pid) for pid in runners(spec))
    if "step" in fault:
        assert how_often(spec, "step")["step 1 of warmup"] == 1, "the next attempts went on from the checkpoint"


def test_a_stopped_process_is_a_stalled_one_and_changes_no_result(tmp_path: Path, stretch: Callable[..., None]) -> None:
    """SIGSTOP of the runner alone, as a deadlock in a driver would look."""
    expected = undisturbed(tmp_path / "undisturbed")
    spec = spec_for(tmp_path, holds=["step 4 of warmup"])
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "step 4 of warmup"))
        os.kill(runners(spec)[0], signal.SIGSTOP)
        stopped = get_job(job).lease_token
        stretch(lambda desk: desk.lease.token == stopped)
        notice(supervisor)
        wait_until(lambda: get_job(job).status == "succeeded")
    assert result(job) == expected
    assert chunk_runs(job) == [1] * 6
    assert not alive(runners(spec)[0])
    assert any("said nothing for" in message for message in events(job))


class Bystander:
    """Where a heart expects a runner: it only remembers whether it was killed."""

    killed = False

    def kill_orphans(self) -> None: ...

    def kill(self) -> None:
        self.killed = True


def test_a_slow_runner_that_speaks_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the time since it was heard counts: on a clock of the test's own, that no machine's standstill moves."""
    limit, clock, runner = settings().stall_step_seconds, [0.0], Bystander()
    monkeypatch.setattr("worker.desk.time", SimpleNamespace(monotonic=lambda: clock[0]))
    job = add_job()
    with transaction() as session:
        lease = leases.claim_job(session, "w1")
    assert lease
    desk = Desk(lease, tmp_path)
    heart = Heart(lease, desk, threading.Event())

    def beat() -> None:
        """Returns after one that began after this call, and after the look at the silence before that."""
        for _ in range(2):
            let_lease_expire(job)
            heart.nudge()
            wait_until(lambda: get_job(job).lease_until)

    heart.watch(runner)  # type: ignore[arg-type]
    heart.start()
    for step in range(5):
        desk.answer({"tell": "progress", "stage": "round-1/warmup", "step": step, "total": 5})
        clock[0] += 0.9 * limit
        beat()
    assert (heart.why, runner.killed) == (None, False)
    clock[0] += 0.2 * limit
    wait_until(lambda: heart.nudge() or heart.why)
    heart.stop()
    assert (heart.why, runner.killed) == ("stalled", True)
    assert f"said nothing for {1.1 * limit:.0f} s, last that it was at a training step" in heart.stall


def test_a_runner_that_never_says_anything_is_taken_for_stalled(tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(max_attempts=1, stall_loading_seconds=1)
    job = add_job(spec=spec_for(tmp_path))
    with at_work(command=(sys.executable, "-c", "import time; time.sleep(3600)")):
        wait_until(lambda: get_job(job).status == "failed")
    error = get_job(job).error
    assert error
    assert (error["code"], "at loading" in error["message"]) == ("stalled", True)

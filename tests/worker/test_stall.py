"""A runner that lives and gets no further: its worker beats on, the job does not wait for ever."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models.tables import Event
from tests.rows import add_file, add_job, get_job, set_job
from tests.worker.fake_runner import spec_for
from tests.worker.watching import alive, chunk_runs, did, events, how_often, result, rows, runners, wait_until
from tests.worker.working import at_work, undisturbed, work

LEASE_SECONDS = 12
STALL_SECONDS = 2


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None]) -> None:
    stalls = {"stall_step_seconds": STALL_SECONDS, "stall_batch_seconds": STALL_SECONDS}  # starting takes what it takes
    configure(lease_seconds=LEASE_SECONDS, checkpoint_steps=1, checkpoint_seconds=0, **stalls)


@pytest.mark.parametrize(
    ("fault", "doing"), [("hangs at step 3", "a training step"), ("hangs at chunk 2", "a batch of rows")], ids=["step", "chunk"]
)
def test_a_runner_that_hangs_is_killed_and_the_job_fails_after_three_attempts_without_progress(
    tmp_path: Path, fault: str, doing: str
) -> None:
    spec = spec_for(tmp_path, fault=fault)
    job = add_job(spec=spec)
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


def test_a_stopped_process_is_a_stalled_one_and_changes_no_result(tmp_path: Path) -> None:
    """SIGSTOP of the runner alone, as a deadlock in a driver would look."""
    expected = undisturbed(tmp_path / "undisturbed")
    spec = spec_for(tmp_path, step_seconds=0.2)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work():
        wait_until(lambda: did(spec, "step 4 of warmup"))
        os.kill(runners(spec)[0], signal.SIGSTOP)
        wait_until(lambda: get_job(job).status == "succeeded")
    assert result(job) == expected
    assert chunk_runs(job) == [1] * 6
    assert not alive(runners(spec)[0])
    assert any("said nothing for" in message for message in events(job))


def test_a_slow_runner_that_speaks_is_left_alone(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, step_seconds=0.7)
    assert STALL_SECONDS < 5 * 0.7, "a whole training takes longer than a stall"
    job = add_job(spec=spec)
    with at_work():
        wait_until(lambda: get_job(job).status == "succeeded")
    assert len(runners(spec)) == 1


def test_a_runner_that_never_says_anything_is_taken_for_stalled(tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(max_attempts=1, stall_loading_seconds=1)
    job = add_job(spec=spec_for(tmp_path))
    with at_work(command=(sys.executable, "-c", "import time; time.sleep(3600)")):
        wait_until(lambda: get_job(job).status == "failed")
    error = get_job(job).error
    assert error
    assert (error["code"], "at loading" in error["message"]) == ("stalled", True)

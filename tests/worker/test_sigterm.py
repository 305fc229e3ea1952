"""SIGTERM to a real worker process, as a deploy sends it: its job is put away in good order and nothing is lost."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.tables import Event
from tests.conftest import Stack
from tests.rows import add_file, add_job, get_job
from tests.worker.fake_runner import spec_for
from tests.worker.test_celery import ended, start_worker
from tests.worker.watching import alive, chunk_runs, did, how_often, result, rows, runners, wait_until
from worker.housekeeper import Housekeeper

EXIT_SECONDS = 120


@pytest.fixture(autouse=True)
def api(stack: Stack, configure: Callable[..., None]) -> Iterator[Housekeeper]:
    # A lease no loaded machine outlives, all the grace there is, and no checkpoint but the one of the stop.
    configure(lease_seconds=120, stop_grace_seconds=80, checkpoint_seconds=3600)
    housekeeper = Housekeeper()
    housekeeper.start()
    yield housekeeper
    housekeeper.stop()


def terminate(stack: Stack, worker: object, job: str, pid: int) -> None:
    worker.send_signal(signal.SIGTERM)  # type: ignore[attr-defined]
    assert worker.wait(EXIT_SECONDS) == 0, stack.logs()  # type: ignore[attr-defined]
    row = get_job(job)
    assert (row.status, row.attempt, row.lease_until, row.next_attempt_at) == ("queued", 0, None, None)
    assert not alive(pid)


def test_told_to_end_in_training_and_in_propagation_a_worker_loses_no_step_and_no_chunk(stack: Stack, tmp_path: Path) -> None:
    first = start_worker(stack)
    (tmp_path / "quiet").mkdir()
    quiet = add_job(spec=spec_for(tmp_path / "quiet"), unlabeled_file=add_file(b"{}"))
    ended(stack, quiet)
    spec = spec_for(tmp_path, holds=["step 2 of warmup", "begin chunk 2"])
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    wait_until(lambda: did(spec, "step 2 of warmup"), what=stack.logs)
    terminate(stack, first, job, runners(spec)[-1])
    second = start_worker(stack)
    wait_until(lambda: did(spec, "begin chunk 2"), what=stack.logs)
    terminate(stack, second, job, runners(spec)[-1])
    start_worker(stack)
    ended(stack, job)
    assert result(job) == result(quiet)
    assert set(how_often(spec, "step").values()) == {1}, "not one step was taken twice"
    assert chunk_runs(job) == [1] * 6
    assert set(how_often(spec, "begin chunk").values()) == {1}, "the chunk in work was finished"
    back = [event.data for event in rows(Event, job) if event.message.startswith("Back in the queue")]
    assert back == [{"reason": "worker_stopped"}] * 2

"""A paused job is put away with a checkpoint and comes back as if nothing had happened."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.blobs import blobs
from models.db import transaction
from models.queries import jobs
from models.queries.outbox import ring
from models.status import JobStatus
from models.tables import TrainingState
from tests.rows import TENANT, add_file, add_job, get_job
from tests.worker.fake_runner import spec_for
from tests.worker.watching import alive, chunk_runs, did, events, how_often, result, rows, runners, wait_until
from tests.worker.working import at_work, notice, undisturbed


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=120, stop_grace_seconds=80, checkpoint_seconds=3600)


def pause(job: str) -> None:
    with transaction() as session:
        assert jobs.lock_status(session, TENANT, job) == JobStatus.running
        assert jobs.request_pause(session, job)


def resume(job: str) -> None:
    with transaction() as session:
        status = jobs.lock_status(session, TENANT, job)
        assert status == JobStatus.paused
        jobs.resume(session, job, status)
        ring(session, job)


def test_paused_in_training_and_in_propagation_it_repeats_no_step_and_no_chunk(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    moments = ("step 2 of warmup", "begin chunk 2")
    spec = spec_for(tmp_path, holds=moments, copies=True)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    for moment in moments:
        with at_work() as supervisor:
            wait_until(lambda moment=moment: did(spec, moment))
            pause(job)
            notice(supervisor)
            wait_until(lambda: get_job(job).status == "paused")
        row = get_job(job)
        assert (row.attempt, row.lease_until, row.next_attempt_at) == (0, None, None)
        assert not alive(runners(spec)[-1])
        with at_work():
            pass  # a worker that looks around finds nothing to do
        assert get_job(job).status == "paused"
        resume(job)
    with at_work():
        wait_until(lambda: get_job(job).status == "succeeded")
    assert result(job) == expected
    assert chunk_runs(job) == [1] * 6
    assert set(how_often(spec, "step").values()) == {1}
    assert set(how_often(spec, "begin chunk").values()) == {1}
    told = [message for message in events(job) if "pause" in message or "after step" in message]
    assert told[0] == "The job was paused"
    assert told[1].startswith("round-1/warmup goes on after step ")
    assert told[2] == "The job was paused"
    assert rows(TrainingState, job) == []
    [left] = how_often(spec, "left")
    assert "checkpoints" not in left, "what was read of a checkpoint lies in the store"
    assert "tmp" not in left


def test_a_paused_job_that_is_cancelled_leaves_no_checkpoint_behind(tmp_path: Path) -> None:
    from worker.housekeeper import sweep_silent

    spec = spec_for(tmp_path, holds=["step 2 of warmup"])
    job = add_job(spec=spec)
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "step 2 of warmup"))
        pause(job)
        notice(supervisor)
        wait_until(lambda: get_job(job).status == "paused")
    [state] = rows(TrainingState, job)
    [stored] = [entry["sha256"] for entry in state.manifest["files"].values()]
    assert blobs().exists(stored)
    with transaction() as session:
        jobs.cancel_waiting(session, job, JobStatus.paused)
    sweep_silent()
    assert rows(TrainingState, job) == []
    assert not blobs().exists(stored)

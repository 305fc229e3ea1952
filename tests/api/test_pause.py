"""Pause and resume on the wire, with the stock client."""

from typing import Any

import openai
import pytest

from models.db import transaction
from models.queries import leases
from tests.api.conftest import Uploads
from tests.api.rows import claim, fail, run_to_the_end

MODEL = "semift-small"


def messages(client: openai.OpenAI, job: str) -> list[str]:
    return [event.message for event in reversed(client.fine_tuning.jobs.list_events(job).data)]


def test_a_waiting_job_rests_until_it_is_resumed(client: openai.OpenAI, upload: Uploads) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(model=MODEL, training_file=upload.labeled())
    for _ in range(2):
        paused: Any = jobs.pause(job.id)
        assert (paused.status, paused.queue, paused.pause_requested_at is not None) == ("paused", None, True)
    with transaction() as session:
        assert leases.claim_job(session, "w1") is None
    for _ in range(2):
        resumed: Any = jobs.resume(job.id)
        assert (resumed.status, resumed.pause_requested_at) == ("queued", None)
    assert messages(client, job.id)[1:] == ["The job was paused", "The job was resumed"], "said twice, done once"
    assert claim().job_id == job.id


def test_a_running_job_is_pausing_until_its_worker_has_put_it_away(client: openai.OpenAI, upload: Uploads) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(model=MODEL, training_file=upload.labeled())
    lease = claim()
    for _ in range(2):
        assert jobs.pause(job.id).status == "pausing"
    assert jobs.resume(job.id).status == "running"
    with transaction() as session:
        assert not leases.heartbeat(session, lease).pause
    jobs.pause(job.id)
    with transaction() as session:
        assert leases.heartbeat(session, lease).pause
        leases.release(session, lease, counted=False)
    assert jobs.retrieve(job.id).status == "paused"
    told = ["A pause was requested", "The pause was withdrawn", "A pause was requested", "The job was paused"]
    assert messages(client, job.id)[2:] == told
    assert jobs.cancel(job.id).status == "cancelled"


def test_a_job_that_ended_or_is_about_to_can_be_neither_paused_nor_resumed(client: openai.OpenAI, upload: Uploads) -> None:
    jobs, file = client.fine_tuning.jobs, upload.labeled()
    succeeded, failed, cancelled, ending = (jobs.create(model=MODEL, training_file=file).id for _ in range(4))
    jobs.cancel(cancelled)
    run_to_the_end()
    fail()
    claim()
    jobs.cancel(ending)
    for job, said in ((succeeded, "has succeeded"), (failed, "has failed"), (cancelled, "was cancelled"), (ending, "is being")):
        for move in (jobs.pause, jobs.resume):
            with pytest.raises(openai.ConflictError, match=said) as refused:
                move(job)
            assert (refused.value.code, refused.value.param) == ("invalid_state", "status")
            assert refused.value.response.headers["x-should-retry"] == "false"
    for move in (jobs.pause, jobs.resume):
        with pytest.raises(openai.NotFoundError):
            move("ftjob-unknown")

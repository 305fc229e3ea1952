"""Real Celery workers on SQLite + filesystem and on PostgreSQL + Redis, and what may happen to them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection, Exchange, Queue

from models.settings import settings
from models.status import TERMINAL
from tests import servers
from tests.conftest import Stack
from tests.rows import add_file, add_job, get_job, let_lease_expire, set_job
from tests.worker.fake_runner import spec_for
from tests.worker.fake_worker import ARGS, LOOKS_ONCE
from tests.worker.watching import alive, begun_in_vain, chunk_runs, did, how_often, lines, result, runners, wait_until
from worker.app import QUEUE, celery, configuration, publish, transport_options
from worker.housekeeper import Housekeeper

LEASE_SECONDS = 60  # no loaded machine stands still for that long: who loses a lease here has a bug
LONG_SECONDS = 3600


@pytest.fixture(autouse=True)
def api(stack: Stack, configure: Callable[..., None]) -> Iterator[Housekeeper]:
    """What an API process has running: a housekeeper without an idle thread."""
    configure(lease_seconds=LEASE_SECONDS, stop_grace_seconds=2)
    housekeeper = Housekeeper()
    housekeeper.start()
    yield housekeeper
    housekeeper.stop()


def start_worker(stack: Stack) -> subprocess.Popen[bytes]:
    worker = stack.spawn("celery", *ARGS, "-n", f"w{len(stack.processes)}@test")
    log = stack.folder / f"{len(stack.processes) - 1}-celery.log"
    wait_until(lambda: " ready." in log.read_text(), what=log.read_text)
    return worker


def ended(stack: Stack, job: str, status: str = "succeeded") -> None:
    wait_until(lambda: get_job(job).status in TERMINAL, 240, lambda: f"{get_job(job).status}\n{stack.logs()}")
    assert get_job(job).status == status, f"{get_job(job).error}\n{stack.logs()}"


def test_a_doorbell_starts_a_job_of_which_nobody_else_tells_the_worker(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOOKS_ONCE, "1")
    start_worker(stack)
    first = add_job(spec=spec_for(tmp_path))
    ended(stack, first)  # this one the worker may have found as it looked around, when it began
    ended(stack, add_job(spec=spec_for(tmp_path, log=str(tmp_path / "second"))))


def test_kill_9_of_the_worker_kills_its_runner_and_another_worker_finishes_with_the_same_result(
    stack: Stack, tmp_path: Path
) -> None:
    first = start_worker(stack)
    (tmp_path / "undisturbed").mkdir()
    undisturbed = add_job(spec=spec_for(tmp_path / "undisturbed"), unlabeled_file=add_file(b"{}"))
    ended(stack, undisturbed)
    spec = spec_for(tmp_path, holds=["begin chunk 3", "begin evolve 3"])
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    wait_until(lambda: did(spec, "begin chunk 3"), what=stack.logs)
    first.kill()
    first.wait()
    wait_until(lambda: not alive(runners(spec)[0]))
    let_lease_expire(job)  # as it would in a minute
    second = start_worker(stack)
    wait_until(lambda: did(spec, "begin evolve 3"), what=stack.logs)
    second.kill()
    second.wait()
    let_lease_expire(job)
    start_worker(stack)
    ended(stack, job)
    assert result(job) == result(undisturbed)
    assert chunk_runs(job) == [1] * 6
    assert begun_in_vain(job, spec) <= 0, "only a chunk that a runner died in was begun again"
    assert how_often(spec, "begin warmup") == {"begin warmup": 1}, "what was recorded is never computed again"


def test_a_worker_told_to_end_gives_its_job_back_and_leaves(stack: Stack, tmp_path: Path) -> None:
    worker = start_worker(stack)
    spec = spec_for(tmp_path, chunk_seconds=LONG_SECONDS)
    job = add_job(spec=spec)
    wait_until(lambda: did(spec, "begin chunk 0"), what=stack.logs)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0, stack.logs()
    row = get_job(job)
    assert (row.status, row.attempt) == ("queued", 0)
    assert not alive(runners(spec)[0])


def test_a_running_job_is_cancelled_in_the_middle_of_a_step_and_the_worker_takes_the_next(stack: Stack, tmp_path: Path) -> None:
    start_worker(stack)
    spec = spec_for(tmp_path, step_seconds=LONG_SECONDS)
    job = add_job(spec=spec)
    wait_until(lambda: did(spec, "begin warmup"), what=stack.logs)
    set_job(job, cancel_requested_at=5.0)
    ended(stack, job, "cancelled")
    assert not alive(runners(spec)[0])
    ended(stack, add_job(spec=spec_for(tmp_path, log=str(tmp_path / "next"))))


def test_two_worker_processes_share_the_chunks_of_one_stage(stack: Stack, tmp_path: Path) -> None:
    start_worker(stack)
    start_worker(stack)
    spec = spec_for(tmp_path, items=8, chunk_seconds=0.2, company=2)
    job = add_job(spec=spec)
    ended(stack, job)
    both = {pid for pid, what in lines(spec) if what.startswith("end chunk")}
    assert len(both) == 2, stack.logs()
    assert chunk_runs(job) == [1] * 8
    assert set(how_often(spec, "begin chunk").values()) == {1}, stack.logs()


def test_losing_every_message_loses_no_job(stack: Stack, tmp_path: Path) -> None:
    """Redis flushed under our prefix, or the broker's folder emptied, with one job running and two waiting."""
    start_worker(stack)
    specs = [spec_for(tmp_path, log=str(tmp_path / f"lines-{n}"), chunk_seconds=0.3 if n == 0 else 0) for n in range(3)]
    jobs = [add_job(spec=spec) for spec in specs]
    wait_until(lambda: did(specs[0], "begin chunk 0"), what=stack.logs)
    if stack.name == "scaled":
        assert servers.drop_keys(settings().broker, settings().broker_prefix) > 0
    else:
        for message in (settings().data_dir / "broker" / "queue").iterdir():
            message.unlink(missing_ok=True)
    late = add_job(spec=spec_for(tmp_path, log=str(tmp_path / "late")))
    for job in (*jobs, late):
        ended(stack, job)
    for spec in specs:
        assert len(runners(spec)) == 1


def test_doubled_forged_and_broken_messages_do_no_harm(stack: Stack, tmp_path: Path) -> None:
    worker = start_worker(stack)
    spec = spec_for(tmp_path)
    job = add_job(spec=spec)
    publish([job] * 20 + ["ftjob-nobody", "../../etc/passwd", ""])
    with Connection(settings().broker, transport_options=transport_options(settings())) as connection:
        queue = Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)
        for body, content in ((b"\x80\x04N.", "application/x-python-serialize"), (b"{", "application/json")):
            connection.Producer().publish(body, content_type=content, content_encoding="binary", **_to(queue))
    ended(stack, job)
    assert len(runners(spec)) == 1
    ended(stack, add_job(spec=spec_for(tmp_path, log=str(tmp_path / "after"))))
    assert worker.poll() is None


def _to(queue: Queue) -> dict[str, object]:
    return {
        "exchange": queue.exchange,
        "routing_key": queue.routing_key,
        "declare": [queue],
        "headers": {"task": "semift.ring"},
    }


def test_a_broker_that_is_away_blocks_nobody_and_costs_no_job(
    stack: Stack, tmp_path: Path, configure: Callable[..., None], api: Housekeeper
) -> None:
    api.stop()
    configure(broker_url="redis://127.0.0.1:1/0")
    started = time.monotonic()
    with pytest.raises(Exception, match=r"refused|111"):
        publish(["ftjob-x"])
    assert time.monotonic() - started < 60, "it was tried once"
    spec = spec_for(tmp_path)
    job = add_job(spec=spec)
    stack.spawn("celery", *ARGS)
    ended(stack, job)


def test_the_settings_that_keep_a_message_a_doorbell(stack: Stack) -> None:
    pinned = configuration()
    assert pinned["task_acks_late"] is False
    assert pinned["task_reject_on_worker_lost"] is False
    assert pinned["task_ignore_result"] is True
    assert pinned["result_backend"] is None
    assert pinned["accept_content"] == ["json"]
    assert pinned["worker_prefetch_multiplier"] == 1
    assert pinned["worker_disable_prefetch"] is (stack.name == "scaled")
    assert pinned["worker_cancel_long_running_tasks_on_connection_loss"] is False
    for name, value in pinned.items():
        if name not in ("broker_url", "broker_transport_options", "worker_disable_prefetch"):
            assert getattr(celery.conf, name) == value, name
    assert os.environ["SEMIFT_LEASE_SECONDS"] == str(LEASE_SECONDS)

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Barrier

import pytest

from models.db import transaction
from models.queries import leases, outbox
from models.queries.jobs import lock_status, request_cancel
from models.queries.leases import Lease, LeaseLost
from models.settings import settings
from models.status import JobStatus
from models.tables import Event, Outbox, Stage
from tests.models.moves import claim, claim_chunk, commit, count, end, open_stage, release
from tests.rows import TENANT, add_file, add_job, get_job, let_lease_expire, set_job

CLOCKS_APART = 0.01  # SQLite's says milliseconds


def test_the_oldest_waiting_job_is_claimed_first_and_only_once(database: str) -> None:
    before, first, second = time.time(), add_job(), add_job()
    one, two = claim("w1"), claim("w2")
    assert (one.job_id, two.job_id) == (first, second)
    assert two.token > one.token > 0
    with transaction() as session:
        assert leases.claim_job(session, "w3") is None
    job = get_job(first)
    assert (job.status, job.worker, job.attempt) == ("running", "w1", 1)
    assert job.started_at
    assert before - CLOCKS_APART <= job.created_at <= job.started_at <= time.time() + CLOCKS_APART
    assert job.lease_until == pytest.approx(job.started_at + 3600, abs=1), "one statement wrote both"


def test_many_threads_claim_every_job_once(database: str) -> None:
    file = add_file()
    wanted = {add_job(training_file=file) for _ in range(40)}

    def work(number: int) -> list[str]:
        mine = []
        while True:
            with transaction() as session:
                lease = leases.claim_job(session, f"w{number}")
            if lease is None:
                return mine
            mine.append(lease.job_id)

    with ThreadPoolExecutor(8) as pool:
        claimed = [job for jobs in pool.map(work, range(8)) for job in jobs]
    assert Counter(claimed) == Counter(wanted)


CLAIM_ALL = """
import sys
from models.db import transaction
from models.queries.leases import claim_job
while True:
    with transaction() as session:
        lease = claim_job(session, sys.argv[1])
    if lease is None:
        break
    sys.stdout.write(f"{lease.job_id} {lease.token}\\n")
"""


def test_many_processes_claim_every_job_once_each_with_a_token_of_its_own(database: str) -> None:
    file = add_file()
    wanted = {add_job(training_file=file) for _ in range(30)}
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", CLAIM_ALL, f"w{n}"], cwd=root, stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    lines = [line.split() for process in started for line in process.communicate(timeout=240)[0].splitlines()]
    assert [process.returncode for process in started] == [0] * 4
    assert Counter(job for job, _ in lines) == Counter(wanted)
    assert len({token for _, token in lines}) == 30


def test_a_job_that_waits_for_its_next_attempt_is_left_alone(database: str) -> None:
    job = add_job()
    set_job(job, next_attempt_at=4e9)
    with transaction() as session:
        assert leases.claim_job(session, "w1") is None


def test_heartbeat_prolongs_reports_a_cancel_and_notices_a_lost_lease(database: str) -> None:
    lease = claim() if add_job() else None
    assert lease
    set_job(lease.job_id, lease_until=1.0)
    with transaction() as session:
        assert leases.heartbeat(session, lease, {"stage": "round-1/propagate"}) == leases.Beat(held=True, cancel=False)
    job = get_job(lease.job_id)
    assert job.lease_until is not None
    assert job.lease_until > 1e9
    assert job.progress == {"stage": "round-1/propagate"}
    set_job(lease.job_id, cancel_requested_at=5.0)
    with transaction() as session:
        assert leases.heartbeat(session, lease).cancel
    stale = Lease(lease.job_id, lease.token - 1, "w0")
    with transaction() as session:
        assert not leases.heartbeat(session, stale, {"stage": "wrong"}).held
    assert get_job(lease.job_id).progress == {"stage": "round-1/propagate"}


def test_a_silent_worker_loses_its_job_and_writes_nothing_afterwards(database: str) -> None:
    add_job()
    old = claim("old")
    let_lease_expire(old.job_id)
    new = claim("new")
    assert (new.job_id, get_job(new.job_id).attempt) == (old.job_id, 2)
    for write in (
        lambda: commit(old),
        lambda: open_stage(old),
        lambda: claim_chunk(old),
    ):
        with pytest.raises(LeaseLost, match=f"old no longer holds {old.job_id}"):
            write()
    assert count(Stage) == 0
    assert end(old) is None
    assert release(old, counted=True) is None
    assert get_job(new.job_id).worker == "new"
    commit(new)
    assert end(new) == JobStatus.succeeded


def test_a_late_success_after_a_cancel_ends_as_cancelled(database: str) -> None:
    add_job()
    lease = claim()
    set_job(lease.job_id, cancel_requested_at=5.0)
    assert end(lease) == JobStatus.cancelled
    job = get_job(lease.job_id)
    assert (job.status, job.adapter_name, job.error, job.lease_until) == ("cancelled", None, None, None)
    assert end(lease) is None, "a finished job takes no second end"


def test_sweep_frees_the_jobs_of_silent_workers_and_rings_for_them(database: str) -> None:
    job = add_job()
    claim()
    with transaction() as session:
        assert leases.sweep(session) == {}
        outbox.take_waiting(session)
    let_lease_expire(job)
    with transaction() as session:
        assert leases.sweep(session) == {job: TENANT}
        assert leases.sweep(session) == {}
    row = get_job(job)
    assert (row.status, row.lease_until, row.attempt) == ("queued", None, 1)
    assert count(Outbox, Outbox.rung_at.is_(None)) == 1
    assert count(Event, Event.level == "warn") == 1


def test_attempts_without_progress_end_and_progress_starts_the_count_again(database: str, configure: object) -> None:
    job = add_job()
    for attempt in (1, 2):
        claim()
        assert get_job(job).attempt == attempt
        let_lease_expire(job)
    lease = claim()
    commit(lease)
    assert get_job(job).attempt == 0
    for _ in range(3):
        let_lease_expire(job)
        with transaction() as session:
            leases.sweep(session)
        set_job(job, next_attempt_at=None)
        claim()
    let_lease_expire(job)
    with transaction() as session:
        assert leases.claim_job(session, "w9") is None, "the sweeper ends it, no worker takes it again"
        leases.sweep(session)
    row = get_job(job)
    assert row.status == "failed"
    assert row.error == {
        "code": "worker_lost",
        "param": None,
        "message": "The job's worker was lost 3 times without any progress in between.",
    }


def test_release_in_good_order_costs_no_attempt_and_starts_at_once(database: str) -> None:
    job = add_job()
    assert release(claim(), counted=False) == JobStatus.queued
    row = get_job(job)
    assert (row.attempt, row.next_attempt_at) == (0, None)
    lease, before = claim(), time.time()
    assert release(lease, counted=True) == JobStatus.queued
    after = get_job(job).next_attempt_at
    assert after
    assert before - CLOCKS_APART <= after - settings().heartbeat_seconds <= time.time() + CLOCKS_APART


@pytest.mark.parametrize("by", ["release", "sweep"])
def test_a_cancelled_job_is_never_given_back_to_the_queue(database: str, by: str) -> None:
    job = add_job()
    lease = claim()
    set_job(job, cancel_requested_at=5.0)
    if by == "release":
        assert release(lease, counted=True) == JobStatus.cancelled
    else:
        let_lease_expire(job)
        with transaction() as session:
            assert leases.claim_job(session, "w2") is None
            leases.sweep(session)
    assert get_job(job).status == "cancelled"


def test_doorbells_are_taken_once_and_put_back_when_the_broker_is_away(database: str) -> None:
    jobs = [add_job() for _ in range(3)]
    with transaction() as session:
        taken = outbox.take_waiting(session)
    assert [job for _, job in taken] == jobs
    with transaction() as session:
        assert outbox.take_waiting(session) == []
        outbox.put_back(session, [taken[1][0]])
    with transaction() as session:
        assert outbox.take_waiting(session) == [taken[1]]


def test_a_cancel_that_races_with_the_end_leaves_one_consistent_end(database: str) -> None:
    file = add_file()
    seen = set()
    with ThreadPoolExecutor(2) as pool:
        for trial in range(40):
            job = add_job(training_file=file)
            lease, barrier = claim(), Barrier(1 if trial < 2 else 2)

            def cancel(job: str = job, barrier: Barrier = barrier) -> bool:
                barrier.wait()
                with transaction() as session:
                    running = lock_status(session, "default", job) == JobStatus.running
                    return running and request_cancel(session, job)

            def succeed(lease: Lease = lease, barrier: Barrier = barrier, late: bool = trial % 2 == 0) -> JobStatus | None:
                barrier.wait()
                if late:
                    time.sleep(0.002)
                return end(lease)

            asked, ended = _both(pool, cancel, succeed, trial)
            expected = JobStatus.cancelled if asked.result() else JobStatus.succeeded
            assert ended.result() == expected
            assert get_job(job).status == expected
            assert (get_job(job).adapter_name is None) == asked.result()
            ends = ("The job was cancelled", "The job has successfully completed")
            assert count(Event, Event.job_id == job, Event.message.in_(ends)) == 1
            seen.add(expected)
    assert len(seen) == 2


def _both(
    pool: ThreadPoolExecutor, cancel: Callable[[], bool], succeed: Callable[[], JobStatus | None], trial: int
) -> tuple[Future[bool], Future[JobStatus | None]]:
    """At once; in the first two trials one after the other, each ahead once, so that every machine shows both orders."""
    if trial == 0:
        ended = pool.submit(succeed)
        wait([ended])
        return pool.submit(cancel), ended
    asked = pool.submit(cancel)
    if trial == 1:
        wait([asked])
    return asked, pool.submit(succeed)

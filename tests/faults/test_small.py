"""Faults of the machine beneath one worker: its disk, its clock, its locks and its file descriptors."""

import errno
import gc
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import ExceptionContext, event, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from api.main import create_app
from models.blobs import Blobs
from models.db import engine, transaction
from models.queries import leases
from models.settings import settings
from models.tables import Event, Job
from tests.keys import AUTH
from tests.rows import add_file, add_job, get_job
from tests.worker.fake_runner import COMMAND, spec_for
from tests.worker.watching import did, result, rows, runners, wait_until
from tests.worker.working import at_work, undisturbed, work
from worker.room import out_of_room
from worker.scratch import scratch_folder
from worker.supervisor import Rest, Supervisor, patiently

LEASE_SECONDS = 300  # no machine stands still for so long: nobody loses a job here
ROWS = 40  # as many as make a database longer, whatever room its last pages have


@pytest.fixture
def long_lease(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=LEASE_SECONDS)


def work_at_once() -> None:
    """What rests between two attempts need not here."""
    with transaction() as session:
        session.execute(update(Job).values(next_attempt_at=None))
    work()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO], ids=["read-only", "broken"])
def test_a_disk_that_takes_nothing_for_a_while_costs_an_attempt_and_no_byte(
    long_lease: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    wanted = undisturbed(tmp_path / "undisturbed")
    job = add_job(spec=spec_for(tmp_path), unlabeled_file=add_file(b"{}"))
    put, failed = Blobs.put_path, []

    def refuses(self: Blobs, path: Path) -> Any:
        if len(failed) < 2:
            failed.append(path)
            raise OSError(number, os.strerror(number))
        return put(self, path)

    monkeypatch.setattr(Blobs, "put_path", refuses)
    wait_until(lambda: work_at_once() or get_job(job).status in ("succeeded", "failed"), 200)
    assert get_job(job).status == "succeeded", get_job(job).error
    assert len(failed) == 2
    assert result(job) == wanted
    assert not list((settings().data_dir / "blobs").rglob(".part-*")), "no half file stays behind"


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["store", "fetch", "scratch", "runner"])
def test_a_full_disk_costs_no_attempt_and_the_job_goes_on_when_there_is_room(
    long_lease: None, tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Wherever it is met: with one attempt in all, any that counted would end the job."""
    wanted = undisturbed(tmp_path / "undisturbed")
    configure(max_attempts=1)
    spec = spec_for(tmp_path, fault="no room" if where == "runner" else None)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    times = 2

    def refuses_twice(function: Callable[..., Any]) -> Callable[..., Any]:
        met = []

        def instead(*given: Any, **named: Any) -> Any:
            if len(met) < times:
                met.append(given)
                raise FULL
            return function(*given, **named)

        return instead

    if where == "store":
        monkeypatch.setattr(Blobs, "put_path", refuses_twice(Blobs.put_path))
    elif where == "fetch":
        monkeypatch.setattr(Blobs, "fetch", refuses_twice(Blobs.fetch))
    elif where == "scratch":
        monkeypatch.setattr("worker.supervisor.scratch_folder", refuses_twice(scratch_folder))
    supervisor = Supervisor(command=COMMAND, name="w1")
    supervisor.work()
    assert get_job(job).status == "queued"
    supervisor.work()
    assert len(backs(job)) == 1, "a worker whose machine is at fault takes nothing for a while"
    for _ in range(times):
        supervisor._rest._until = 0.0  # nobody waits here
        supervisor.work()
    row = get_job(job)
    assert (row.status, row.error, row.attempt) == ("succeeded", None, 0)
    assert result(job) == wanted
    assert [(event.level, event.data["reason"]) for event in backs(job)] == [("warn", "storage_full")] * times
    assert "no room on its disk" in backs(job)[0].message


@contextmanager
def full_database() -> Iterator[list[str]]:
    """SQLite may not grow by a page: what it answers is what it answers on a disk without room. The statements that failed."""
    refused: list[str] = []

    def limit(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are

    def lift(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {2**30}")

    def note(context: ExceptionContext) -> None:
        if "database or disk is full" in str(context.original_exception):
            refused.append(str(context.statement))

    event.listen(engine(), "handle_error", note)
    event.listen(engine(), "checkout", limit)
    try:
        yield refused
    finally:
        event.remove(engine(), "checkout", limit)
        event.listen(engine(), "checkout", lift)
        event.remove(engine(), "handle_error", note)


def test_a_database_without_room_stops_work_and_breaks_nothing(
    sqlite: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    wanted = undisturbed(tmp_path / "undisturbed", items=ROWS)
    configure(lease_seconds=LEASE_SECONDS)
    spec = spec_for(tmp_path, items=ROWS, chunk_seconds=0.02)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    app = TestClient(create_app(), headers=AUTH)
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 2"), 200)
        with full_database() as refused:
            wait_until(lambda: len(refused) > 3, 200)
            told = [app.post("/v1/files", files={"file": ("l.jsonl", b"{}")}, data={"purpose": "fine-tune"}) for _ in range(40)]
            assert {answer.status_code for answer in told} <= {200, 507}
            assert {answer.json()["error"]["code"] for answer in told if answer.status_code == 507} == {"storage_full"}
            assert get_job(job).status == "running", "it waits, and its lease is kept"
    assert get_job(job).status == "succeeded"
    assert get_job(job).attempt == 0
    assert len(runners(spec)) == 1
    assert result(job) == wanted
    kept = [answer.json()["id"] for answer in told if answer.status_code == 200]
    assert all(app.get(f"/v1/files/{file}").status_code == 200 for file in kept), "what was accepted is there"
    with engine().connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def backs(job: str) -> list[Event]:
    return [event for event in rows(Event, job, Event.id) if event.message.startswith("Back in the queue")]


def test_each_rest_is_longer_than_the_one_before_and_none_longer_than_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    rest, slept = Rest(), []
    for _ in range(8):
        rest.begin("no room")
        began = clock[0]
        while rest.goes_on():
            clock[0] += 1
        slept.append(clock[0] - began)
    assert slept == [10, 20, 40, 80, 160, 300, 300, 300]
    rest.over()
    rest.begin("no room")
    clock[0] += 10
    assert not rest.goes_on()


def test_a_full_disk_is_known_by_its_number_its_words_or_what_led_to_it() -> None:
    wrapped = RuntimeError("the library gave up")
    wrapped.__cause__ = FULL
    for problem in (FULL, OSError(errno.EDQUOT, "x"), ValueError("I/O error: No space left on device (os error 28)"), wrapped):
        assert out_of_room(problem), problem
    assert not out_of_room(OSError(errno.EIO, "broken"))


def test_a_worker_whose_clock_is_an_hour_off_steals_nothing_and_loses_nothing(
    long_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    for shift in (3600, -3600):
        job = add_job()
        with transaction() as session:
            lease = leases.claim_job(session, "right")
        assert lease is not None
        assert lease.job_id == job
        monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
        with transaction() as session:
            assert leases.claim_job(session, "wrong") is None
            assert leases.sweep(session) == {}
            assert leases.heartbeat(session, lease).held
        until = get_job(job).lease_until
        assert until is not None
        assert abs(until - (real() + LEASE_SECONDS)) < LEASE_SECONDS
        with transaction() as session:
            session.execute(update(Job).where(Job.id == job).values(status="cancelled", lease_until=None))


def test_two_transactions_that_deadlock_are_both_done_in_the_end(postgresql: str) -> None:
    first, second, both = add_job(), add_job(), threading.Barrier(2)
    tries: list[str] = []

    def swap(one: str, other: str) -> None:
        def locked() -> None:
            tries.append(one)
            with transaction() as session:
                _touch(session, one)
                if len(tries) <= 2:
                    both.wait(120)
                _touch(session, other)

        patiently(locked, until=lambda: len(tries) > 5)

    threads = [threading.Thread(target=swap, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(tries) == 3, "PostgreSQL ended one of the two, which was done again"
    assert {get_job(job).attempt for job in (first, second)} == {2}


def _touch(session: Session, job: str) -> None:
    session.execute(update(Job).where(Job.id == job).values(attempt=Job.attempt + 1))


def test_a_deadlock_is_an_error_that_is_worth_another_try(postgresql: str) -> None:
    with pytest.raises(OperationalError), transaction() as session:
        session.execute(text("do $$ begin raise exception 'x' using errcode = '40P01'; end $$"))


JOBS = 12
BYTES_A_JOB = 20_000  # of Python's own memory; a third of it are the log lines that pytest keeps


def test_job_after_job_leaves_no_descriptor_no_zombie_no_folder_and_no_memory(sqlite: str, tmp_path: Path) -> None:
    def after_one() -> tuple[int, int]:
        add_job(spec=spec_for(tmp_path, items=1))
        work()
        engine().dispose()  # how many connections the pool keeps says how many heartbeats a slow machine had time for
        zombies = [pid for pid in _children(os.getpid()) if _state(pid) == "Z"]
        return len(list(Path("/proc/self/fd").iterdir())), len(zombies)

    warm = [after_one() for _ in range(3)][-1]
    tracemalloc.start()
    try:
        after_one()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(JOBS):
            after = after_one()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < JOBS * BYTES_A_JOB
    assert after[1] == 0
    assert after[0] <= warm[0] + 1
    assert list((settings().data_dir / "scratch").glob("*")) == []


def _children(pid: int) -> list[int]:
    return [int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""

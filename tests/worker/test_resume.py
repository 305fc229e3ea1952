import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import update
from sqlalchemy.engine import make_url

from models.db import transaction
from models.queries import leases
from models.settings import settings
from models.tables import Event, Job, Stage
from tests.rows import add_file, add_job, get_job, set_job
from tests.worker.fake_runner import COMMAND, spec_for
from tests.worker.watching import alive, chunk_runs, did, events, how_often, lines, result, rows, runners, wait_until
from tests.worker.working import at_work, let_go, notice, take_no_more, undisturbed, work
from worker import heart
from worker.scratch import remove_abandoned
from worker.supervisor import Supervisor

LONG_SECONDS = 3600


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=60, stop_grace_seconds=2)


def test_a_runner_killed_in_a_chunk_costs_that_chunk_only_and_changes_no_result(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    spec = spec_for(tmp_path, holds=["begin chunk 3"])
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 3"))
        os.kill(runners(spec)[0], signal.SIGKILL)
        wait_until(lambda: get_job(job).status == "succeeded")
    assert len(runners(spec)) == 2
    assert sum(how_often(spec, "begin chunk").values()) == 7, "only the chunk in flight was begun again"
    assert chunk_runs(job) == [1] * 6
    assert how_often(spec, "begin warmup") == {"begin warmup": 1}
    assert result(job) == expected


def test_deaths_without_progress_end_the_job_with_their_reason(tmp_path: Path) -> None:
    job = add_job(spec=spec_for(tmp_path, fault="kill"))
    for attempt in (1, 2, 3):
        set_job(job, next_attempt_at=None)
        work()
        assert get_job(job).attempt == attempt
    row = get_job(job)
    assert row.status == "failed"
    assert row.error
    assert row.error["code"] == "out_of_memory"
    assert "most often for lack of memory" in row.error["message"]


def test_a_job_that_kills_its_runners_holds_nobody_up(tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(max_attempts=1000)
    poison = add_job(spec=spec_for(tmp_path, fault="kill"))
    behind = [add_job(spec=spec_for(tmp_path)) for _ in range(2)]
    set_job(poison, attempt=997)  # it waits longer each time: by now for half an hour
    worker = Supervisor(command=COMMAND, name="w1")
    worker.work()
    assert [get_job(job).status for job in (poison, *behind)] == ["queued", "succeeded", "succeeded"]
    assert get_job(poison).attempt == 998, "its next attempt waits while others run"
    for _ in range(2):
        set_job(poison, next_attempt_at=None)
        worker.work()
    assert get_job(poison).status == "failed"
    last = add_job(spec=spec_for(tmp_path))
    worker.work()
    assert get_job(last).status == "succeeded", "the worker lives"


def test_a_runner_deaf_to_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=LONG_SECONDS, fault="deaf")
    job = add_job(spec=spec)
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 0"))
        supervisor.stop()
        wait_until(lambda: get_job(job).status == "queued")
    assert not alive(runners(spec)[0])


def test_what_a_runner_started_dies_with_it(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=LONG_SECONDS, fault="child")
    add_job(spec=spec)
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 0"))
        child = next(int(what.removeprefix("child ")) for _, what in lines(spec) if what.startswith("child "))
        assert alive(child)
        supervisor._stopping.set()
        os.kill(runners(spec)[0], signal.SIGKILL)
        wait_until(lambda: not alive(child))


def test_a_lost_lease_kills_the_runner_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_for(tmp_path, chunk_seconds=LONG_SECONDS)
    job = add_job(spec=spec)
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 0"))
        with transaction() as session:  # one transaction, or a heartbeat comes between
            session.execute(update(Job).where(Job.id == job).values(lease_until=0.0))
            other = leases.claim_job(session, "w2")
        assert other
        take_no_more(monkeypatch)
        notice(supervisor)
        wait_until(lambda: not alive(runners(spec)[0]))
    row = get_job(job)
    assert (row.status, row.worker, row.lease_token) == ("running", "w2", other.token)


def test_a_worker_that_shuts_down_gives_its_job_back_at_once(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=LONG_SECONDS)
    job = add_job(spec=spec)
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 0"))
        supervisor.stop()
        wait_until(lambda: get_job(job).status == "queued")  # the grace, in which a chunk may still end
    row = get_job(job)
    assert (row.attempt, row.next_attempt_at, row.lease_until) == (0, None, None)
    assert not alive(runners(spec)[0])


def test_an_output_that_rotted_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    spec = spec_for(tmp_path, holds=["begin evolve 3"])
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work():
        wait_until(lambda: did(spec, "begin evolve 3"))
        stages = result(job)
        rotten = [stages["stages"]["round-1/warmup"]["files"]["payload.json"], stages["chunks"][2][1]["files"]["payload.json"]]
        for entry in rotten:
            path = settings().data_dir / "blobs" / entry["sha256"][:2] / entry["sha256"]
            path.write_bytes(b"rot")
        os.kill(runners(spec)[0], signal.SIGKILL)
        wait_until(lambda: get_job(job).status == "succeeded")
    assert how_often(spec, "begin warmup") == {"begin warmup": 2}
    assert how_often(spec, "begin chunk")["begin chunk 2"] == 2
    assert sum(how_often(spec, "begin chunk").values()) == 7
    assert [event.data["code"] for event in rows(Event, job) if "made again" in event.message] == ["artifact_corrupt"] * 2
    found = result(job)
    assert {**found, "stages": dict(sorted(found["stages"].items()))} == {
        **expected,
        "stages": dict(sorted(expected["stages"].items())),
    }


def test_two_workers_share_the_chunks_of_one_stage(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed", items=12)
    spec = spec_for(tmp_path, items=12, chunk_seconds=0.05, company=2)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work("owner"):
        wait_until(lambda: did(spec, "begin chunk 0"))
        with at_work("helper"):
            wait_until(lambda: get_job(job).status == "succeeded")
    owner, helper = runners(spec)
    shares = {
        pid: sum(1 for who, what in lines(spec) if who == pid and what.startswith("end chunk")) for pid in (owner, helper)
    }
    assert sum(shares.values()) == 12
    assert min(shares.values()) >= 1
    assert chunk_runs(job) == [1] * 12
    assert how_often(spec, "begin evolve") == {"begin evolve 6": 1}
    assert get_job(job).worker == "owner"
    assert result(job) == expected


def test_a_helper_that_dies_leaves_its_chunk_to_the_others(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, company=2, holds=["assist in a chunk"])
    job = add_job(spec=spec)
    with at_work("owner"):
        wait_until(lambda: did(spec, "begin chunk 0"))
        with at_work("helper"):
            wait_until(lambda: did(spec, "assist in a chunk"))
            os.kill(runners(spec)[1], signal.SIGKILL)
            wait_until(lambda: get_job(job).status == "succeeded")
    assert chunk_runs(job) == [1] * 6
    assert sum(how_often(spec, "begin chunk").values()) == 7, "the helper's was begun again, and no other"


def test_folders_of_dead_workers_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    dead = settings().data_dir / "scratch" / "ftjob-x" / "t1"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    assert remove_abandoned() == [], "its worker may be about to lock it"
    os.utime(dead / "lock", (1.0, 1.0))
    spec = spec_for(tmp_path, holds=["begin chunk 0"])
    job = add_job(spec=spec)
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 0"))
        assert remove_abandoned() == [dead.resolve()]
        assert (settings().data_dir / "scratch" / job).is_dir()
        let_go(spec)
    assert not dead.parent.exists()
    assert get_job(job).status == "succeeded"
    assert len(rows(Stage, job)) == 6


def test_a_worker_that_cannot_start_a_runner_counts_the_attempt_and_goes_on(tmp_path: Path) -> None:
    job = add_job(spec=spec_for(tmp_path))
    Supervisor(command=("/nowhere/python",)).work()
    row = get_job(job)
    assert (row.status, row.attempt) == ("queued", 1)
    assert row.next_attempt_at is not None
    assert "FileNotFoundError" in events(job)[-1]


def test_a_worker_without_database_stops_before_its_lease_is_over(
    tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(lease_seconds=LONG_SECONDS)
    spec = spec_for(tmp_path, chunk_seconds=LONG_SECONDS)
    job = add_job(spec=spec)

    def unreachable(*_: Any) -> None:
        raise ConnectionError("no route to host")

    assert heart.LEASE_SHARE < 1
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 0"))
        take_no_more(monkeypatch)
        monkeypatch.setattr(heart, "LEASE_SHARE", 1e-6)  # of this long one, it is over with the first beat that fails
        monkeypatch.setattr(leases, "heartbeat", unreachable)
        wait_until(lambda: not alive(runners(spec)[0]))
    row = get_job(job)
    assert row.status == "running", "nothing was written: the sweeper finds it"
    assert row.lease_until
    assert row.lease_until > time.time(), "it stopped before others may begin"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_database_that_drops_its_connections_costs_no_attempt(database: str, tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=0.3, holds=["begin chunk 5"])
    job = add_job(spec=spec)
    server = make_url(database).set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    drop = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
    with psycopg.connect(server, autocommit=True) as admin, at_work():
        wait_until(lambda: did(spec, "begin chunk 0"))
        for _ in range(8):
            admin.execute(drop, [make_url(database).database])
            time.sleep(0.1)
        let_go(spec)
    assert get_job(job).status == "succeeded"
    assert len(runners(spec)) == 1
    assert chunk_runs(job) == [1] * 6

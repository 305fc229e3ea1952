import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.blobs import blobs
from models.db import transaction
from models.queries import leases
from models.settings import settings
from models.tables import Event, Stage
from tests.rows import add_file, add_job, get_job, let_lease_expire, set_job
from tests.worker.fake_runner import COMMAND, spec_for
from tests.worker.watching import alive, chunk_runs, did, events, how_often, lines, result, rows, runners, wait_until
from worker.scratch import remove_abandoned
from worker.supervisor import Supervisor

LEASE_SECONDS = 3


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=LEASE_SECONDS)


@contextmanager
def at_work(name: str = "w1", command: tuple[str, ...] = COMMAND) -> Iterator[Supervisor]:
    """A supervisor working in a thread of its own; joined at the end, when it must have nothing left to do."""
    supervisor = Supervisor(command=command, name=name)
    thread = threading.Thread(target=supervisor.work)
    thread.start()
    try:
        yield supervisor
    except BaseException:
        supervisor.stop()
        raise
    finally:
        thread.join(60)
        assert not thread.is_alive()


def work(times: int = 1) -> None:
    for _ in range(times):
        Supervisor(command=COMMAND, name="w1").work()


def undisturbed(folder: Path, **values: Any) -> dict[str, Any]:
    """What the same job ends with when nothing happens to it."""
    folder.mkdir()
    job = add_job(spec=spec_for(folder, **values), unlabeled_file=add_file(b"{}"))
    work()
    assert get_job(job).status == "succeeded"
    return result(job)


def test_a_job_runs_to_its_end_and_everything_the_api_shows_is_there(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    job = add_job(spec=spec, suffix="mine", unlabeled_file=add_file(b"{}"))
    work()
    row = get_job(job)
    assert (row.status, row.error, row.lease_until, row.attempt) == ("succeeded", None, None, 0)
    assert row.adapter_name == f"ft:semift-small:default:mine:{job.removeprefix('ftjob-')}"
    assert row.trained_tokens == 140
    found = result(job)
    order = ["round-1/warmup", "round-1/propagate", "round-1/select", "round-1/evolve", "report", "artifacts"]
    assert list(found["stages"]) == order
    assert [path for path, *_ in found["artifacts"]] == ["adapter/adapter_model.safetensors", "report.json"]
    assert [sample[1] for sample in found["samples"]] == ["selected", "rejected"] * 3
    assert found["samples"][1][4][0]["response"] == "answer \ufffd 1", "PostgreSQL stores no NUL"
    numbers = {"train_loss": 0.2, "steps": 5, "trained_tokens": 70}
    summary = {"selected": 3, "rejected": 3, "threshold": 0.5, "reasons": {"above the cut": 3}, **numbers}
    assert found["rounds"] == [(1, summary)]
    assert found["checkpoints"] == [(5, numbers)]
    with blobs().open(dict((path, sha) for path, sha, _ in found["artifacts"])["report.json"]) as file:
        assert json.load(file)["seconds"] == sorted(order[:4]), "the report may say how long each stage took"
    assert events(job)[0] == "Fine-tuning job started"
    assert events(job)[-1] == "The job has successfully completed"
    assert not (settings().data_dir / "scratch" / job).exists()


def test_progress_and_metrics_are_written_with_the_heartbeat(tmp_path: Path) -> None:
    job = add_job(spec=spec_for(tmp_path, step_seconds=0.3))
    with at_work():
        wait_until(lambda: get_job(job).progress.get("step"))
        progress = get_job(job).progress
    expected = {"phase": "warmup", "stage": "round-1/warmup", "total": 5, "round": 1, "rounds": 1}
    assert expected.items() <= progress.items()
    assert progress["percent"] == progress["step"] / 5 * 100
    metrics = [event for event in rows(Event, job) if event.type == "metrics"]
    assert metrics[0].data["loss"] == pytest.approx(1 / metrics[0].data["step"])
    assert "broken" not in metrics[0].data, "JSON has no NaN"


def test_the_runner_sees_no_url_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("SEMIFT_API_KEY", "canary")
    add_job(spec=spec_for(tmp_path, environment=str(tmp_path / "environment")))
    work()
    seen = json.loads((tmp_path / "environment").read_text())
    assert not [name for name, value in seen.items() if name.startswith("SEMIFT_") or "canary" in value]
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert "PATH" in seen


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (
            "bad data",
            {
                "code": "empty_text",
                "message": "Row 3 has no text.",
                "param": "training_file",
                "hint": "Fill it in.",
                "line": 3,
            },
        ),
        (
            "bug",
            {
                "code": "internal_error",
                "message": "The job stopped on an unexpected ZeroDivisionError; the worker's log holds the details.",
                "param": None,
                "hint": None,
            },
        ),
        (
            "memory",
            {
                "code": "out_of_memory",
                "message": "The job ran out of memory.",
                "param": None,
                "hint": "Lower hyperparameters.micro_batch_size or max_length, or run it on a larger device.",
            },
        ),
    ],
)
def test_what_the_runner_reports_becomes_the_jobs_error(tmp_path: Path, fault: str, error: dict[str, Any]) -> None:
    job = add_job(spec=spec_for(tmp_path, fault=fault))
    work()
    row = get_job(job)
    assert (row.status, row.error, row.adapter_name) == ("failed", error, None)


def test_a_model_this_worker_does_not_have_is_named(tmp_path: Path) -> None:
    job = add_job(spec=spec_for(tmp_path), base_lm="llama-9")
    work()
    error = get_job(job).error
    assert error
    assert (error["code"], error["param"]) == ("model_not_allowed", "model")
    assert "'llama-9'" in error["message"]
    assert "semift-small" in error["message"]


def test_an_upload_that_cannot_be_read_any_more_fails_the_job_by_name(tmp_path: Path) -> None:
    job = add_job(spec=spec_for(tmp_path))
    for blob in (settings().data_dir / "blobs").glob("??/*"):
        blob.write_bytes(b"rot")
    work()
    error = get_job(job).error
    assert error
    assert error["code"] == "file_unreadable"


def test_a_runner_killed_in_a_chunk_costs_that_chunk_only_and_changes_no_result(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    spec = spec_for(tmp_path, chunk_seconds=0.2)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 3"))
        os.kill(runners(spec)[0], signal.SIGKILL)
        wait_until(lambda: get_job(job).status == "succeeded")
    assert len(runners(spec)) == 2
    assert sum(how_often(spec, "begin chunk").values()) <= 7, "only the chunk in flight was begun again"
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


def test_a_cancel_stops_the_runner_and_ends_the_job(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=60)
    job = add_job(spec=spec)
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 0"))
        set_job(job, cancel_requested_at=5.0)
        wait_until(lambda: get_job(job).status == "cancelled", seconds=10)
        assert not alive(runners(spec)[0])
    assert get_job(job).adapter_name is None
    assert events(job)[-1] == "The job was cancelled"


def test_a_lost_lease_kills_the_runner_and_writes_nothing(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=60)
    job = add_job(spec=spec)
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 0"))
        supervisor._stopping.set()  # takes no other job afterwards; the running one goes on until the next beat
        let_lease_expire(job)
        with transaction() as session:
            other = leases.claim_job(session, "w2")
            assert other
        wait_until(lambda: not alive(runners(spec)[0]), seconds=LEASE_SECONDS)
    row = get_job(job)
    assert (row.status, row.worker, row.lease_token) == ("running", "w2", other.token)


def test_a_worker_that_shuts_down_gives_its_job_back_at_once(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=60)
    job = add_job(spec=spec)
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 0"))
        supervisor.stop()
        wait_until(lambda: get_job(job).status == "queued", seconds=3)
    row = get_job(job)
    assert (row.attempt, row.next_attempt_at, row.lease_until) == (0, None, None)
    assert not alive(runners(spec)[0])


def test_an_output_that_rotted_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    spec = spec_for(tmp_path, step_seconds=0.1, chunk_seconds=0.05)
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work():
        wait_until(lambda: did(spec, "begin evolve 3"))
        os.kill(runners(spec)[0], signal.SIGKILL)
        stages = result(job)
        rotten = [stages["stages"]["round-1/warmup"]["files"]["payload.json"], stages["chunks"][2][1]["files"]["payload.json"]]
        for entry in rotten:
            path = settings().data_dir / "blobs" / entry["sha256"][:2] / entry["sha256"]
            path.write_bytes(b"rot")
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
    spec = spec_for(tmp_path, items=12, chunk_seconds=0.25)
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
    assert min(shares.values()) >= 3
    assert chunk_runs(job) == [1] * 12
    assert how_often(spec, "begin evolve") == {"begin evolve 6": 1}
    assert get_job(job).worker == "owner"
    assert result(job) == expected


def test_a_helper_that_dies_leaves_its_chunk_to_the_others(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=0.4)
    job = add_job(spec=spec)
    with at_work("owner"):
        wait_until(lambda: did(spec, "begin chunk 0"))
        with at_work("helper"):
            wait_until(lambda: len(runners(spec)) == 2)
            helper = runners(spec)[1]
            wait_until(lambda: any(pid == helper and what.startswith("begin chunk") for pid, what in lines(spec)))
            os.kill(helper, signal.SIGKILL)
            wait_until(lambda: get_job(job).status == "succeeded")
    assert chunk_runs(job) == [1] * 6


NONSENSE = "import sys; sys.stdout.write('this is not JSON\\n'); sys.stdout.flush(); sys.stdin.read()"


def test_a_runner_that_talks_nonsense_is_killed_and_counted(tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(max_attempts=1)
    job = add_job(spec=spec_for(tmp_path))
    with at_work(command=(sys.executable, "-c", NONSENSE)):
        wait_until(lambda: get_job(job).status == "failed")
    error = get_job(job).error
    assert error
    assert error["code"] == "internal_error"
    assert "JSONDecodeError" in error["message"]


def test_folders_of_dead_workers_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    dead = settings().data_dir / "scratch" / "ftjob-x" / "t1"
    dead.mkdir(parents=True)
    (dead / "lock").touch()
    assert remove_abandoned() == [], "its worker may be about to lock it"
    os.utime(dead / "lock", (1.0, 1.0))
    spec = spec_for(tmp_path, chunk_seconds=0.3)
    job = add_job(spec=spec)
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 0"))
        assert remove_abandoned() == [dead.resolve()]
        assert (settings().data_dir / "scratch" / job).is_dir()
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


def test_a_worker_without_database_stops_before_its_lease_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_for(tmp_path, chunk_seconds=60)
    job = add_job(spec=spec)

    def unreachable(*_: Any) -> None:
        raise ConnectionError("no route to host")

    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 0"))
        monkeypatch.setattr(leases, "heartbeat", unreachable)
        wait_until(lambda: not alive(runners(spec)[0]), seconds=LEASE_SECONDS + 1)
        supervisor._stopping.set()
    assert get_job(job).status == "running", "nothing was written: the sweeper finds it"

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.blobs import blobs
from models.settings import settings
from models.tables import Event
from tests.rows import add_file, add_job, get_job, set_job
from tests.worker.fake_runner import spec_for
from tests.worker.watching import alive, did, events, result, rows, runners, wait_until
from tests.worker.working import at_work, let_go, work

LEASE_SECONDS = 30


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=LEASE_SECONDS)


def test_a_job_runs_to_its_end_and_everything_the_api_shows_is_there(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, copies=True)
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
    summary = {"selected": 3, "rejected": 3, "threshold": 0.5, "reasons": {"above the cut": 3}}
    summary |= {"guarantee": None, "note": None, **numbers}
    assert found["rounds"] == [(1, summary)]
    assert found["checkpoints"] == [(5, numbers)]
    with blobs().open(dict((path, sha) for path, sha, _ in found["artifacts"])["report.json"]) as file:
        assert json.load(file)["seconds"] == sorted(order[:4]), "the report may say how long each stage took"
    assert events(job)[0] == "Fine-tuning job started"
    assert events(job)[-1] == "The job has successfully completed"
    assert did(spec, "left ['out/round-1/evolve/files', 'out/round-1/warmup/files']"), "weights lie on the worker's disk once"
    assert not (settings().data_dir / "scratch" / job).exists()


def test_progress_and_metrics_are_written_with_the_heartbeat(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, holds=["step 4 of warmup"])
    job = add_job(spec=spec)
    with at_work():
        wait_until(lambda: get_job(job).progress.get("step"))
        progress = get_job(job).progress
        let_go(spec)
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


def test_a_cancel_stops_the_runner_and_ends_the_job(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, chunk_seconds=3600)
    job = add_job(spec=spec)
    with at_work():
        wait_until(lambda: did(spec, "begin chunk 0"))
        set_job(job, cancel_requested_at=5.0)
        wait_until(lambda: get_job(job).status == "cancelled")
        assert not alive(runners(spec)[0])
    assert get_job(job).adapter_name is None
    assert events(job)[-1] == "The job was cancelled"


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

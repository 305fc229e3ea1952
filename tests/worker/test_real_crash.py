"""The real algorithm, killed between the steps of its trainings: it goes on from checkpoints and ends with the same bytes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from models.tables import TrainingState
from tests.rows import get_job
from tests.worker.test_crash_points import run_to_the_end
from tests.worker.test_real_job import add, without_seconds
from tests.worker.watching import events, rows
from worker.supervisor import RUNNER


@pytest.mark.slow
def test_a_worker_or_a_runner_killed_between_checkpoints_changes_no_byte(
    database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    configure(lease_seconds=60, threads=1, base_lms=json.dumps({"tiny": "bundled:1"}), checkpoint_seconds=0, checkpoint_steps=5)
    quiet = add()
    run_to_the_end(quiet, tmp_path / "quiet.log", command=RUNNER)
    point = "save.committed:3" if database.startswith("sqlite") else "checkpoint.put:4"  # the worker dies, or the runner
    job = add()
    run_to_the_end(job, tmp_path / "job.log", f"{point}@{tmp_path / 'killed'}", RUNNER)
    assert (tmp_path / "killed").exists()
    assert get_job(job).status == "succeeded", get_job(job).error
    assert without_seconds(job) == without_seconds(quiet)
    assert [m for m in events(job) if "goes on after step" in m], "it was interrupted inside a training"
    assert rows(TrainingState, job) == []

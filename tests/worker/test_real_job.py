"""The real algorithm in a real runner under a real Celery worker: killed twice, it ends with the bytes of a quiet run."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from models.blobs import blobs
from models.tables import Chunk, Stage
from tests.conftest import Stack
from tests.rows import add_file, add_job, get_job, let_lease_expire
from tests.worker.watching import result, rows, wait_until
from worker.app import WORKER_ARGS
from worker.semisup.spec import load_spec

WORDS = {"red": ("rose", "blood", "fire", "cherry", "ruby", "brick"), "blue": ("sea", "sky", "ice", "navy", "whale", "jeans")}
SPEC = {
    "answer": {"kind": "label", "labels": list(WORDS)},
    "hyperparameters": {"trainable": "lora", "batch_size": 8},
    "warmup": {"n_epochs": 16},  # enough for one layer to say "red" now and then
    "evolve": {"n_epochs": 4},
    "propagation": {"k": 2, "chunk_size": 4, "max_new_tokens": 3},
    "selection": {"strategy": "all"},
    "resolve": {"resolver": "vote"},
    "calibration": {"mode": "off"},  # three warm-ups more; the acceptance test has them
    "evaluation": {"baselines": False, "with_neighbours": False},
}


def start_worker(stack: Stack) -> subprocess.Popen[bytes]:
    return stack.spawn("celery", *WORKER_ARGS, "-n", f"w{len(stack.processes)}@test")


def add() -> str:
    questions = [
        (f"what colour is the {thing} number {n}", colour) for n in range(4) for colour in WORDS for thing in WORDS[colour]
    ]
    labeled = "\n".join(json.dumps({"text": text, "label": colour}) for text, colour in questions[:24])
    unlabeled = "\n".join(json.dumps({"text": text}) for text, _ in questions[24:])
    return add_job(
        base_lm="tiny",
        spec=load_spec(SPEC).model_dump(mode="json"),
        training_file=add_file(labeled.encode(), "labeled.jsonl"),
        unlabeled_file=add_file(unlabeled.encode(), "unlabeled.jsonl"),
    )


def children(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


def without_seconds(job: str) -> dict[str, Any]:
    """The result, and the report's body in place of the files that say how long things took."""
    found = result(job)
    for stage in ("report", "artifacts"):
        found["stages"].pop(stage)
    files = {path: sha256 for path, sha256, _ in found["artifacts"]}
    with blobs().open(files["report.json"]) as file:
        report = json.load(file)
    report.pop("seconds")
    timed = ("report.json", "report.md")
    return {**found, "report": report, "artifacts": {path: sha for path, sha in files.items() if path not in timed}}


def ended(stack: Stack, job: str) -> None:
    wait_until(lambda: get_job(job).status in ("succeeded", "failed"), 480, lambda: f"{get_job(job).progress}\n{stack.logs()}")
    assert get_job(job).status == "succeeded", f"{get_job(job).error}\n{stack.logs()}"


@pytest.mark.slow
def test_kill_9_in_propagate_and_in_training_changes_no_byte(stack: Stack, configure: Callable[..., None]) -> None:
    configure(lease_seconds=60, threads=1, base_lms=json.dumps({"tiny": "bundled:1"}))
    worker = start_worker(stack)
    quiet = add()
    ended(stack, quiet)

    job = add()
    wait_until(lambda: [c for c in rows(Chunk, job) if c.stage == "round-1/propagate" and c.status == "done"], 240, stack.logs)
    [runner] = children(worker.pid)
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: [s for s in rows(Stage, job) if s.name == "round-1/evolve" and s.status == "open"], 240, stack.logs)
    worker.kill()
    worker.wait()
    if get_job(job).status == "running":
        let_lease_expire(job)  # as it would in a minute
    start_worker(stack)
    ended(stack, job)

    assert without_seconds(job) == without_seconds(quiet)
    assert {chunk.runs for chunk in rows(Chunk, job)} == {1}
    assert without_seconds(job)["checkpoints"], "the test is worth something only if an adapter was evolved"

"""A fine-tuning job as a plain Celery task with default settings: `celery -A benchmarks.reliability.naive_app worker`.

Its stages and samples go to files of the job's folder, one append a line, so that what was done twice is there twice.
NAIVE is JSON: settings that differ from Celery's own, as many a guide recommends them.
"""

import json
import os
import time
from pathlib import Path

from celery import Celery

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER", "redis://"))
app.conf.update(json.loads(os.environ.get("NAIVE", "{}")))

STAGES = ("warmup", "propagate", "select", "evolve")
SAMPLES = 6


@app.task  # type: ignore[untyped-decorator]
def train(folder: str, stage_seconds: float) -> None:
    """Warm up, propagate, select, evolve: each writes that it began, its rows, and that it ended."""
    note(folder, "start")
    for stage in STAGES:
        note(folder, f"begin {stage}")
        for sample in range(SAMPLES):
            time.sleep(stage_seconds / SAMPLES)
            if stage == "propagate":
                note(folder, f"sample {sample}")
        note(folder, f"end {stage}")
    note(folder, "end")


def note(folder: str, what: str) -> None:
    handle = os.open(Path(folder) / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{os.getpid()} {what}\n".encode())
    finally:
        os.close(handle)

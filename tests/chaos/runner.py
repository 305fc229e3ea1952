"""A runner for chaos: the quick job of tests/worker, told by a real order how to behave, with a log nobody else writes to.

Its deeds go to `runlog` beside the worker's data folders, one JSON object a line, by single appends: what is written stays
written when the process is killed the next moment, and says what was done whatever became of it.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.worker import fake_runner
from worker.keep import PipeKeep
from worker.runner import Order, main

SECONDS = {"chunk_seconds": 0.15, "step_seconds": 0.08}
CHUNK_SIZE = 2


def job(order: Order, keep: PipeKeep) -> None:
    keep.chunk_size = CHUNK_SIZE
    rows = order["files"]["unlabeled"]["path"]
    items = sum(1 for line in Path(rows).read_bytes().splitlines() if line)
    seed = order["spec"].get("seed") or 0
    told = {"items": items, "log": "", **SECONDS}
    if seed == POISON:
        note(order, "start")
        os.kill(os.getpid(), signal.SIGKILL)
    fake_runner.job({**order, "spec": told}, keep)


POISON = 666  # as a job's seed: its runner dies at once, every time


def note(order: Order, what: str) -> None:
    token = int(Path(order["scratch"]).name.removeprefix("t"))
    deed = {"at": time.time(), "pid": os.getpid(), "token": token, "job": order["job"], "what": what}
    handle = os.open(runlog(Path(order["cache"]).parent), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(deed) + "\n").encode())
    finally:
        os.close(handle)


def runlog(data_dir: Path) -> Path:
    return data_dir.parent / "runlog"


COMMAND = (sys.executable, "-m", "tests.chaos.runner")

if __name__ == "__main__":
    fake_runner.note = note
    sys.exit(main(job))

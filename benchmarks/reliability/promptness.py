"""How soon a worker hears of a job, how soon a cancelled job is cancelled, how soon a worker that is told to end has ended.

Seconds between what a client or an operator does and what they can see of it, on the rig of tests/chaos: PostgreSQL, Redis, an
API and one worker as processes of their own, the quick job in the runner.
"""

import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.naive import until
from tests.chaos.clients import Client
from tests.chaos.rig import Rig

WORKER = "worker-1"
TIMES = 10
WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Promise:
    """`bound` in seconds, None where nothing is promised. `measure` returns the seconds of one try."""

    words: str
    bound: float | None
    measure: Callable[[Rig, Client], float]


def begun(rig: Rig, job: str, what: str) -> float | None:
    """When (time.time()) the runner of `job` wrote down that it did `what`."""
    return next((deed.at for deed in rig.deeds() if deed.job == job and deed.what == what), None)


def submitted(client: Client) -> str:
    job = client.submit("long")
    if job is None:
        raise RuntimeError("no job was accepted")
    return job


def status(rig: Rig, job: str) -> str:
    with rig.client() as http:
        return str(http.get(f"/fine_tuning/jobs/{job}").raise_for_status().json()["status"])


def end(rig: Rig, client: Client, job: str) -> None:
    client.tell(job, "cancel")
    until(lambda: status(rig, job) == "cancelled", WAIT_SECONDS)


def until_started(rig: Rig, client: Client) -> float:
    job, accepted = submitted(client), time.time()
    until(lambda: begun(rig, job, "start"), WAIT_SECONDS)
    took = (begun(rig, job, "start") or 0.0) - accepted
    end(rig, client, job)
    return max(0.0, took)


def until_cancelled(rig: Rig, client: Client) -> float:
    job = submitted(client)
    until(lambda: begun(rig, job, "begin warmup"), WAIT_SECONDS)
    began = time.monotonic()
    end(rig, client, job)
    return time.monotonic() - began


def until_ended(rig: Rig, client: Client) -> float:
    """Of a worker in the middle of a training: its checkpoint is written and the job handed back before it goes."""
    job = submitted(client)
    until(lambda: begun(rig, job, "begin warmup"), WAIT_SECONDS)
    began = time.monotonic()
    rig.processes[WORKER].send_signal(signal.SIGTERM)
    if code := rig.processes[WORKER].wait(WAIT_SECONDS):
        raise RuntimeError(f"the worker ended with {code}")
    took = time.monotonic() - began
    if status(rig, job) != "queued":
        raise RuntimeError(f"the job was not handed back: {status(rig, job)}")
    rig.start(WORKER)
    end(rig, client, job)
    return took


PROMISES: Mapping[str, Promise] = {
    "started": Promise("a job that was accepted runs", None, until_started),
    "cancelled": Promise("a job in training is cancelled", 10.0, until_cancelled),
    "ended": Promise("a worker told to end (SIGTERM) in training has saved, handed back and gone", 30.0, until_ended),
}


def measure_all(times: int = TIMES) -> dict[str, Any]:
    """{"times", "rows": [{"what", "bound", "seconds": [...]}]}"""
    with (
        tempfile.TemporaryDirectory(prefix="semift-prompt-") as folder,
        Rig(Path(folder), scaled=True, workers=(WORKER,)) as rig,
    ):
        client = Client(rig, 0)
        found = {name: [round(promise.measure(rig, client), 2) for _ in range(times)] for name, promise in PROMISES.items()}
    rows = [{"what": PROMISES[name].words, "bound": PROMISES[name].bound, "seconds": took} for name, took in found.items()]
    return {"times": times, "rows": rows}

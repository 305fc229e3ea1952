"""The faults of faults.py against the plain Celery task of naive_app.py: real processes, a Redis of our own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.faults import FLUSHED, Result
from benchmarks.reliability.naive_app import SAMPLES, STAGES
from tests.chaos.backends import OwnRedis

ROOT = Path(__file__).parents[2]
STAGE_SECONDS = 0.5
QUIET_SECONDS = 6.0  # without a new line in any log, nothing more is coming
READY_SECONDS = 60.0
SUBMIT_SECONDS = 15.0


class Naive:
    """A Redis, workers of one kind, and the folders of jobs."""

    def __init__(self, folder: Path, pool: str = "prefork", **settings: Any) -> None:
        self.folder, self.redis = folder, OwnRedis()
        self.jobs: list[Path] = []
        self.ids: list[str] = []
        self._pool, self._processes = pool, list[subprocess.Popen[bytes]]()
        broker = f"redis://127.0.0.1:{self.redis.port}/0"
        self.environment = dict(os.environ) | {"NAIVE_BROKER": broker, "NAIVE": json.dumps(settings)}

    def worker(self) -> subprocess.Popen[bytes]:
        path = self.folder / f"worker-{len(self._processes)}.log"
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.reliability.naive_app", "worker", "-c", "1"]
        command += ["-P", self._pool, "-n", f"w{len(self._processes)}@naive", "--loglevel", "INFO"]
        with path.open("wb") as log:
            made = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self._processes.append(made)
        until(lambda: " ready." in path.read_text(errors="replace"), READY_SECONDS)
        return made

    def child(self, worker: subprocess.Popen[bytes]) -> int:
        """The pool process that runs the task."""
        return next(pid for pid, what in self.lines(self.jobs[0]) if what == "start")

    def submit(self, jobs: int = 1, copies: int = 1, timeout: float = READY_SECONDS) -> bool:
        """From a process of its own, as an API would; False when it had not come back after `timeout` seconds."""
        made = [self.folder / f"job-{len(self.jobs) + number}" for number in range(jobs)]
        for job in made:
            job.mkdir()
        self.jobs += made
        each = f"print(train.delay(job, {STAGE_SECONDS}).id)"
        code = f"import sys; from benchmarks.reliability.naive_app import train\nfor job in sys.argv[1:]: {each}"
        command = [sys.executable, "-c", code, *(str(job) for job in made for _ in range(copies))]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)
        try:
            self.ids += process.communicate(timeout=timeout)[0].split()
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
        return process.returncode == 0

    def lines(self, job: Path) -> list[tuple[int, str]]:
        log = job / "log"
        found = log.read_text().splitlines() if log.exists() else []
        return [(int(line.partition(" ")[0]), line.partition(" ")[2]) for line in found]

    def begun(self, what: str) -> bool:
        return any(line == what for _, line in self.lines(self.jobs[0]))

    def result(self, note: str = "") -> Result:
        """Once nothing happens any more: which jobs ended, and which wrote something twice."""
        seen, quiet = -1, time.monotonic()
        while time.monotonic() - quiet < QUIET_SECONDS:
            lines = sum(len(self.lines(job)) for job in self.jobs)
            if lines != seen:
                seen, quiet = lines, time.monotonic()
            time.sleep(0.2)
        ended = doubled = 0
        for job in self.jobs:
            whats = [what for _, what in self.lines(job)]
            ended += "end" in whats
            twice = [f"end {stage}" for stage in STAGES] + [f"sample {number}" for number in range(SAMPLES)]
            doubled += any(whats.count(what) > 1 for what in twice)
        return Result(len(self.jobs), ended, doubled, note)

    def stop(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.redis.stop()


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def kill_worker(naive: Naive) -> Result:
    worker = naive.worker()
    naive.submit()
    until(lambda: naive.begun("begin propagate"))
    os.killpg(worker.pid, signal.SIGKILL)
    naive.worker()
    return naive.result("acknowledged before it ran, gone with its worker")


def kill_child(naive: Naive) -> Result:
    worker = naive.worker()
    naive.submit()
    until(lambda: naive.begun("begin propagate"))
    os.kill(naive.child(worker), signal.SIGKILL)
    return naive.result()


def flush(naive: Naive) -> Result:
    naive.worker()
    naive.submit(FLUSHED)
    until(lambda: naive.begun("start"))
    with naive.redis.client() as client:
        client.flushall()
    return naive.result("those it had fetched; no error anywhere")


def kill_redis(naive: Naive) -> Result:
    naive.worker()
    naive.submit(5)
    until(lambda: naive.begun("start"))
    naive.redis.kill()
    time.sleep(1)
    naive.redis.start()
    return naive.result("Redis keeps nothing by default until it is told to")


def duplicates(naive: Naive) -> Result:
    naive.worker()
    naive.submit(copies=3)
    return naive.result("every message is a run")


def cancel(naive: Naive) -> Result:
    naive.worker()
    naive.submit()
    until(lambda: naive.begun("begin warmup"))
    code = "import sys; from benchmarks.reliability.naive_app import app; app.control.revoke(sys.argv[1], terminate=True)"
    subprocess.run([sys.executable, "-c", code, naive.ids[0]], cwd=ROOT, env=naive.environment, check=True)
    found = naive.result()
    said = "the cancel was not heard: it ran to its end" if found.ended else "stopped"
    return Result(found.jobs, found.ended, found.doubled, said, broken=bool(found.ended))


def frozen_broker(naive: Naive) -> Result:
    naive.worker()
    naive.redis.process.send_signal(signal.SIGSTOP)
    thaw = threading.Timer(SUBMIT_SECONDS + 5, naive.redis.process.send_signal, (signal.SIGCONT,))
    thaw.start()
    came_back = naive.submit(timeout=SUBMIT_SECONDS)
    thaw.join()
    found = naive.result()
    said = "accepted" if came_back else f"the caller still hung after {SUBMIT_SECONDS:g} s"
    return Result(found.jobs, found.ended, found.doubled, said, broken=not came_back)


FAULTS: Mapping[str, tuple[Callable[[Naive], Result], str, dict[str, Any]]] = {
    "kill_worker": (kill_worker, "prefork", {}),
    "kill_runner": (kill_child, "prefork", {"task_acks_late": True}),
    "kill_runner_requeued": (kill_child, "prefork", {"task_acks_late": True, "task_reject_on_worker_lost": True}),
    "flushall": (flush, "prefork", {}),
    "kill_redis": (kill_redis, "prefork", {}),
    "duplicates": (duplicates, "prefork", {}),
    "cancel": (cancel, "threads", {}),
    "frozen_broker": (frozen_broker, "prefork", {}),
}


@contextlib.contextmanager
def running(pool: str, settings: Mapping[str, Any]) -> Iterator[Naive]:
    with tempfile.TemporaryDirectory(prefix="semift-naive-") as folder:
        naive = Naive(Path(folder), pool, **settings)
        try:
            yield naive
        finally:
            naive.stop()


def measure(name: str) -> Result:
    inject, pool, settings = FAULTS[name]
    with running(pool, settings) as naive:
        return inject(naive)

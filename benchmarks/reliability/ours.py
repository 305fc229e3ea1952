"""The faults of faults.py against Semift: PostgreSQL and Redis of our own, an API and a worker, as tests/chaos starts them."""

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.reliability.faults import FLUSHED, Result
from benchmarks.reliability.naive import until
from tests.chaos.clients import Client
from tests.chaos.rig import Rig
from tests.chaos.run import drained
from worker.app import RING

WORKER = "worker-1"
DRAIN_SECONDS = 60.0


class Ours:
    """One rig for all faults; each has jobs of its own."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.client = rig, Client(rig, 0)

    def begun(self, job: str, what: str) -> bool:
        return any(deed.job == job and deed.what == what for deed in self.rig.deeds())

    def submit(self, kind: str = "small") -> str:
        job = self.client.submit(kind)
        assert job
        return job

    def result(self, jobs: list[str], note: str = "", due: str = "succeeded") -> Result:
        drained(self.rig, DRAIN_SECONDS)
        history = self.rig.history()
        status = {job["id"]: job["status"] for job in history.jobs}
        recorded = Counter((move.job, move.name) for move in history.moves if move.kind != "job" and move.after == "done")
        samples = Counter((row["job"], row["query_id"]) for row in history.samples)
        twice = {key[0] for key, times in (recorded + samples).items() if times > 1}
        ended = sum(status.get(job) == due for job in jobs)
        return Result(len(jobs), ended, len(twice.intersection(jobs)), note, broken=due != "succeeded" and ended < len(jobs))


def kill_worker(ours: Ours) -> Result:
    job = ours.submit("large")
    until(lambda: ours.begun(job, "begin chunk 0"))
    ours.rig.processes[WORKER].kill()
    ours.rig.processes[WORKER].wait()
    ours.rig.start(WORKER)
    return ours.result([job])


def kill_runner(ours: Ours) -> Result:
    job = ours.submit("large")
    until(lambda: ours.begun(job, "begin chunk 0"))
    pid = next(deed.pid for deed in ours.rig.deeds() if deed.job == job)
    os.kill(pid, signal.SIGKILL)
    return ours.result([job])


def flush(ours: Ours) -> Result:
    jobs = [ours.submit() for _ in range(FLUSHED)]
    until(lambda: ours.begun(jobs[0], "start"))
    with ours.rig.redis.client() as client:
        client.flushall()
    return ours.result(jobs)


def kill_redis(ours: Ours) -> Result:
    jobs = [ours.submit() for _ in range(5)]
    until(lambda: ours.begun(jobs[0], "start"))
    ours.rig.redis.kill()
    time.sleep(1)
    ours.rig.redis.start()
    return ours.result(jobs)


def duplicates(ours: Ours) -> Result:
    from kombu import Connection, Exchange, Queue

    from worker.app import QUEUE

    job = ours.submit()
    queue = Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)
    url = f"redis://127.0.0.1:{ours.rig.redis.port}/0"
    with Connection(url, transport_options={"global_keyprefix": ours.rig.broker_prefix}) as connection:
        for copy in range(3):
            headers = {"task": RING, "id": f"copy-{copy}"}
            to = {"exchange": queue.exchange, "routing_key": QUEUE, "declare": [queue]}
            connection.Producer().publish([[job], {}, {}], serializer="json", headers=headers, **to)
    return ours.result([job])


def cancel(ours: Ours) -> Result:
    job = ours.submit("large")
    until(lambda: ours.begun(job, "begin warmup"))
    ours.client.tell(job, "cancel")
    found = ours.result([job], due="cancelled")
    return Result(found.jobs, found.ended, found.doubled, "stopped" if found.ended else "not heard", broken=not found.ended)


def frozen_broker(ours: Ours) -> Result:
    ours.rig.redis.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        job = ours.submit()
        took = time.monotonic() - began
        found = ours.result([job], f"accepted after {took:.1f} s and run while Redis was still frozen")
    finally:
        ours.rig.redis.process.send_signal(signal.SIGCONT)
    return found


FAULTS: Mapping[str, Callable[[Ours], Result]] = {
    "kill_worker": kill_worker,
    "kill_runner": kill_runner,
    "kill_runner_requeued": kill_runner,
    "flushall": flush,
    "kill_redis": kill_redis,
    "duplicates": duplicates,
    "cancel": cancel,
    "frozen_broker": frozen_broker,
}


def measure_all() -> dict[str, Result]:
    with tempfile.TemporaryDirectory(prefix="semift-ours-") as folder, Rig(Path(folder), scaled=True, workers=(WORKER,)) as rig:
        ours = Ours(rig)
        return {name: inject(ours) for name, inject in FAULTS.items()}

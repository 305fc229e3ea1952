"""Threads that keep things going in every API and worker process; any number of them may run at once.

- Doorbells: rows of the outbox become messages. Nobody else talks to the broker, so nobody else waits for it.
- Sweep: jobs of workers that went silent go back to the queue.
- Orphans: bytes that nobody names go (orphans.py).
- Idle (workers only): look for work without having been called. A dead broker costs latency, never a job.
"""

import logging
import threading
import time
from collections.abc import Callable

from models.crash import crash_point
from models.db import transaction
from models.queries.leases import sweep
from models.queries.outbox import put_back, take_waiting
from models.settings import settings
from worker import orphans
from worker.app import publish
from worker.saves import discard_dropped

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR_SECONDS = 5.0
TOLD_AGAIN_SECONDS = 60.0  # that the broker takes nothing is tried every second and said every minute


class Every(threading.Thread):
    """Calls `work` at once, then every `seconds`, and when woken. An error is logged, and the next call comes all the same."""

    def __init__(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        super().__init__(name=f"semift-{name}", daemon=True)
        self._seconds, self._work = seconds, work
        self._woken, self._stopped = threading.Event(), False

    def run(self) -> None:
        while not self._stopped:
            self._woken.clear()
            pause = self._seconds
            try:
                self._work()
            except Exception:
                pause = max(pause, PAUSE_AFTER_ERROR_SECONDS)
                log.exception("%s failed; it is tried again in %g s", self.name, pause)
            self._woken.wait(pause)

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopped = True
        self._woken.set()


class Housekeeper:
    """`start()` and `stop()` once each; `wake()` after a commit that wrote a doorbell rings it at once."""

    def __init__(self, *, idle: Callable[[], object] | None = None) -> None:
        self._idle = idle
        self._threads: list[Every] = []

    def start(self) -> None:
        periods = settings()
        self._threads = [
            Every("doorbells", periods.heartbeat_seconds / 2, ring_waiting),
            Every("sweep", periods.sweep_seconds, sweep_silent),
            Every("orphans", orphans.LOOK_SECONDS, orphans.collect),
        ]
        if self._idle:
            self._threads.append(Every("idle", periods.sweep_seconds, self._idle))
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        if self._threads:
            self._threads[0].wake()

    def stop(self) -> None:
        """Returns when all threads have ended; a job the idle thread runs must have been told to stop before."""
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(settings().lease_seconds)
        self._threads = []


class Complaint:
    """That the broker takes no doorbells, said at first and then now and then."""

    def __init__(self) -> None:
        self._said_at: float | None = None

    def told(self, problem: Exception) -> None:
        if self._said_at is None or time.monotonic() - self._said_at >= TOLD_AGAIN_SECONDS:
            self._said_at = time.monotonic()
            log.warning("the broker took no doorbells: %s", problem)

    def over(self) -> None:
        if self._said_at is not None:
            log.info("the broker takes doorbells again")
        self._said_at = None


_silent = Complaint()


def ring_waiting() -> None:
    """Rings every waiting doorbell; what the broker does not take waits for the next time."""
    while True:
        with transaction() as session:
            taken = take_waiting(session)
        if not taken:
            return
        crash_point("outbox.taken")
        try:
            publish([job_id for _, job_id in taken])
            crash_point("outbox.rung")
            _silent.over()
        except Exception as problem:  # any of kombu's, redis' and the socket's: all of them mean "not now"
            _silent.told(problem)
            with transaction() as session:
                put_back(session, [row for row, _ in taken])
            return


def sweep_silent() -> None:
    with transaction() as session:
        freed = sweep(session)
        crash_point("sweep.before_commit")
    crash_point("sweep.after_commit")
    discard_dropped()
    for job_id, tenant in freed.items():
        log.warning("the worker of %s went silent", job_id, extra={"job_id": job_id, "tenant": tenant})

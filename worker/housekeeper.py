"""Threads that keep things going in every API and worker process; any number of them may run at once.

- Doorbells: rows of the outbox become messages. Nobody else talks to the broker, so nobody else waits for it.
- Sweep: jobs of workers that went silent go back to the queue.
- Idle (workers only): look for work without having been called. A dead broker costs latency, never a job.
"""

import logging
import threading
from collections.abc import Callable

from models.db import transaction
from models.queries.leases import sweep
from models.queries.outbox import put_back, take_waiting
from models.settings import settings
from worker.app import publish

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR_SECONDS = 5.0


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


def ring_waiting() -> None:
    """Rings every waiting doorbell; what the broker does not take waits for the next time."""
    while True:
        with transaction() as session:
            taken = take_waiting(session)
        if not taken:
            return
        try:
            publish([job_id for _, job_id in taken])
        except Exception as problem:  # any of kombu's, redis' and the socket's: all of them mean "not now"
            log.warning("the broker took no doorbells: %s", problem)
            with transaction() as session:
                put_back(session, [row for row, _ in taken])
            return


def sweep_silent() -> None:
    with transaction() as session:
        freed = sweep(session)
    for job_id in freed:
        log.warning("the worker of %s went silent", job_id)

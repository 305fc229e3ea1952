"""The heartbeat of one run: a thread that prolongs the lease, and ends the runner when there is a reason to.

Three signals: that this worker is alive, which it writes itself; that the runner gets on, which the runner says; and that
the worker's other thread, which serves the runner, comes to the end of its turns (both: desk.py). A heart that beats for a
run nobody serves would keep the job from every worker that could. A runner that is told to stop gets time to leave a
checkpoint; the lease is kept meanwhile.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Literal, TypeVar

from models.crash import crash_point
from models.db import transaction
from models.queries import leases
from models.queries.events import add_event
from models.queries.leases import Lease
from models.settings import settings
from worker.desk import Desk
from worker.process import Runner

log = logging.getLogger(__name__)

T = TypeVar("T")
WHY = Literal["cancelled", "lost", "stopping", "paused", "stalled"]
LEASE_SHARE = 0.8  # without a heartbeat for this share of a lease, the work is taken for lost before the others take it
DOING = {"loading": "loading", "step": "a training step", "batch": "a batch of rows"}


class Heart(threading.Thread):
    """`why` says what it ended the runner for; None while it did not. `stall` is how a stalled run is spoken of.

    It beats from the claim on: `watch` tells it of the runner, once there is one.
    """

    def __init__(self, lease: Lease, desk: Desk, stopping: threading.Event) -> None:
        super().__init__(name=f"semift-heart-{lease.job_id}", daemon=True)
        self._lease, self._desk, self._stopping = lease, desk, stopping
        self._runner: Runner | None = None
        self._nudged, self._ended, self._turn = threading.Event(), False, threading.Lock()
        self._deadline: float | None = None  # of a runner that was told to stop
        self._context = copy_context()  # whose job it is, for the log
        self.why: WHY | None = None
        self.stall = ""

    def watch(self, runner: Runner) -> None:
        """A runner that comes when the run is over already is killed at once."""
        with self._turn:
            self._runner = runner
            if self.why:
                runner.kill()

    def run(self) -> None:
        self._context.run(self._until_the_end)

    def _until_the_end(self) -> None:
        periods, good = settings(), time.monotonic()
        while True:
            self._nudged.wait(periods.heartbeat_seconds)
            self._nudged.clear()
            if self._ended:
                return
            if self._stopping.is_set():
                self._tell_to_stop("stopping")
            if self._deadline is not None and time.monotonic() > self._deadline:
                return self._end_runner()
            if self._runner:
                self._runner.kill_orphans()
            if self._no_turn_ends():
                return self._kill("stalled")
            crash_point("beat.before")
            left = good + LEASE_SHARE * periods.lease_seconds - time.monotonic()
            try:  # who stood still himself may still hold the lease: there is always time for one beat
                beat = within(max(left, periods.heartbeat_seconds), self._beat)
            except Exception:
                log.exception("no heartbeat of %s", self._lease.job_id)
                if time.monotonic() - good > LEASE_SHARE * periods.lease_seconds:
                    return self._kill("lost")
                continue
            crash_point("beat.after")
            good = time.monotonic()
            if not beat.held:
                return self._kill("lost")
            if beat.cancel:
                return self._kill("cancelled")
            if beat.pause:
                self._tell_to_stop("paused")
            silent, doing = self._desk.silence()
            if silent > periods.stall_seconds(doing):
                self.stall = f"its runner said nothing for {silent:.0f} s, last that it was at {DOING[doing]}"
                return self._kill("stalled")

    def nudge(self) -> None:
        """Look around now rather than at the next beat."""
        self._nudged.set()

    def stop(self) -> None:
        """Returns after the last beat."""
        self._ended = True
        self._nudged.set()
        self.join()

    def _beat(self) -> leases.Beat:
        progress, metrics = self._desk.take_progress()
        with transaction() as session:
            beat = leases.heartbeat(session, self._lease, progress)
            if beat.held and metrics and not self._lease.helper:
                message = f"{metrics['stage']}: step {metrics['step']}/{metrics['total_steps']}"
                add_event(session, self._lease.job_id, message, type="metrics", data=metrics)
        return beat

    def _no_turn_ends(self) -> bool:
        """Whether the thread that serves the runner is stuck. The lease runs out then, and another worker takes the job."""
        turn = self._desk.turn_seconds()
        if turn <= settings().stall_serving_seconds:
            return False
        self.stall = f"its worker was at one answer to the runner for {turn:.0f} s"
        log.critical("%s is given up: %s; restart this worker if it takes no other job", self._lease.job_id, self.stall)
        return True

    def _tell_to_stop(self, why: WHY) -> None:
        """Once: the runner finishes its step or chunk, leaves a checkpoint and goes; after the grace it is killed."""
        with self._turn:
            if self._deadline is None:
                self._deadline = time.monotonic() + settings().stop_seconds
                self.why = why
                if self._runner:
                    self._runner.tell_to_stop()

    def _kill(self, why: WHY) -> None:
        with self._turn:
            self.why = why
        self._end_runner()

    def _end_runner(self) -> None:
        if self._runner:
            self._runner.kill()


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises, if it does so in time. Raises TimeoutError when not: a connection to a database that
    is frozen holds its thread for as long as that lasts, and the one that asks here must not be that thread.
    """
    told: Future[T] = Future()

    def do() -> None:
        try:
            told.set_result(work())
        except Exception as problem:
            told.set_exception(problem)

    threading.Thread(target=copy_context().run, args=(do,), name="semift-beat", daemon=True).start()
    return told.result(max(seconds, 0.0))

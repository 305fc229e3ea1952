"""The worker's one loop: claim a job, start its runner, answer it, keep the lease alive, end the job. No torch.

A runner is a process group of its own. It is killed when somebody cancels the job, when the lease is lost and when the
worker shuts down; it dies by itself when its worker does.
"""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError

from models.blobs import BlobError
from models.db import transaction
from models.queries import leases
from models.queries.leases import Lease, LeaseLost
from models.settings import settings
from models.status import JobStatus
from worker.desk import Desk
from worker.heart import WHY, Heart
from worker.order import LmGone, write_order
from worker.process import Runner
from worker.scratch import scratch_folder

log = logging.getLogger(__name__)

RUNNER = (sys.executable, "-m", "worker.runner")
RETRY_SECONDS = 0.5
Error = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Ending:
    """How a run went: killed for a reason (`why`), said to be finished, failed for good (`error`), or just dead."""

    why: WHY | None = None
    finished: bool = False
    error: Error | None = None
    death: Error | None = None


class Supervisor:
    """One slot: a worker process runs one thing at a time. `command` starts a runner; tests give a quicker one."""

    def __init__(self, *, command: Sequence[str] = RUNNER, name: str | None = None) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"  # in containers, pids repeat
        self._command = tuple(command)
        self._slot = threading.Lock()
        self._stopping = threading.Event()
        self._heart: Heart | None = None

    def work(self, *, wait: bool = True) -> None:
        """Does whatever there is to do, job after job, then helps others; returns when nothing is left.

        `wait`: for the slot, so that a busy worker takes no further doorbells away from idle ones.
        """
        while not self._stopping.is_set():
            if self._slot.acquire(timeout=0.5 if wait else 0.01):
                try:
                    while not self._stopping.is_set() and self._next():
                        pass
                finally:
                    self._slot.release()
                return
            if not wait:
                return

    def stop(self) -> None:
        """The running job goes back to the queue at once, and no other is taken."""
        self._stopping.set()
        heart = self._heart
        if heart:
            heart.nudge()

    def _next(self) -> bool:
        """One job, or one help; False when there was nothing to do, or nothing came of the help."""
        with transaction() as session:
            lease = leases.claim_job(session, self.name)
        if lease is None:
            with transaction() as session:
                lease = leases.claim_help(session, self.name)
        if lease is None:
            return False
        log.info("%s %s (token %d)", "helping with" if lease.helper else "running", lease.job_id, lease.token)
        try:
            with scratch_folder(lease) as scratch:
                desk = Desk(lease, scratch)
                conclude(lease, self._run(lease, desk))
                return desk.chunks_done > 0 if lease.helper else True
        except Exception as problem:  # no room on the disk, no process left to start
            log.exception("%s could not be run", lease.job_id)
            conclude(lease, Ending(death=_error("internal_error", f"the worker could not start ({type(problem).__name__})")))
            return False

    def _run(self, lease: Lease, desk: Desk) -> Ending:
        """A runner's whole life, in this thread: on Linux a child dies with the thread that started it."""
        try:
            order = write_order(lease, desk.scratch)
        except BlobError as problem:
            return Ending(error=_error("file_unreadable", f"A file of the job cannot be read: {problem}."))
        except LmGone as problem:
            return Ending(error=_error("model_not_allowed", str(problem), param="model"))
        desk.rounds = order["spec"].get("rounds", 1)
        runner = Runner(self._command, desk.scratch)
        self._heart = heart = Heart(lease, runner, desk, self._stopping)
        heart.start()
        trouble: Exception | None = None
        try:
            runner.say(order)
            for message in runner.messages():
                answer = patiently(partial(desk.answer, message), until=lambda: heart.why is not None)
                if answer is not None:
                    runner.say(answer)
        except Exception as problem:
            trouble = problem
            runner.kill(0)
        status = runner.wait()
        heart.stop()
        self._heart = None
        return how_it_went(lease, desk, heart.why, status, trouble)


def how_it_went(lease: Lease, desk: Desk, why: WHY | None, status: int, trouble: Exception | None) -> Ending:
    if isinstance(trouble, LeaseLost):
        return Ending(why="lost")
    if why:
        return Ending(why=why)
    if trouble:
        log.error("the runner of %s was killed: its worker could not serve it", lease.job_id, exc_info=trouble)
        message = f"the worker could not serve its runner ({type(trouble).__name__}); its log holds the details"
        return Ending(death=_error("internal_error", message))
    if desk.ending:
        return Ending(finished="finished" in desk.ending, error=desk.ending.get("error"))
    if status == -signal.SIGKILL:
        return Ending(death=_error("out_of_memory", "the runner was killed from outside, most often for lack of memory"))
    return Ending(death=_error("worker_lost", f"the runner ended unexpectedly (exit status {status})"))


def conclude(lease: Lease, ending: Ending) -> None:
    """Writes the ending down, fenced. A database that cannot be reached leaves it to the sweeper."""
    if lease.helper and (trouble := ending.error or ending.death):
        log.warning("help with %s came to nothing: %s", lease.job_id, trouble["message"])
    deadline = time.monotonic() + settings().lease_seconds
    try:
        outcome = patiently(lambda: _write_ending(lease, ending), until=lambda: time.monotonic() > deadline)
    except Exception:
        log.exception("the end of %s could not be written; it is swept when its lease is over", lease.job_id)
    else:
        log.info("%s: %s", lease.job_id, outcome or ("no longer helped" if lease.helper else "lost to another worker"))


def _write_ending(lease: Lease, ending: Ending) -> JobStatus | None:
    with transaction() as session:
        if lease.helper or ending.why == "stopping":
            return leases.release(session, lease, counted=False)
        if ending.why == "lost":
            return None
        if ending.death:
            return leases.release(session, lease, counted=True, error=ending.death)
        if ending.error:
            return leases.finish(session, lease, JobStatus.failed, error=ending.error)
        return leases.finish(session, lease, JobStatus.succeeded if ending.finished else JobStatus.cancelled)


def patiently(work: Callable[[], T], *, until: Callable[[], bool]) -> T:
    """Waits for a database that is away for a moment (a restart, another writer on SQLite). `work` bears being repeated."""
    while True:
        try:
            return work()
        except OperationalError as problem:
            if until():
                raise
            log.warning("the database is away, trying again: %s", problem.orig)
            time.sleep(RETRY_SECONDS)


def _error(code: str, message: str, param: str | None = None) -> Error:
    return {"code": code, "message": message, "param": param, "hint": None}

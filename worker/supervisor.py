"""The worker's one loop: claim a job, start its runner, answer it, keep the lease alive, end the job. No torch.

A runner is a process group of its own. It is killed when somebody cancels the job, when the lease is lost and when it gets
no further; told to stop, leaving a checkpoint, when the job is paused and when the worker shuts down; it dies by itself when
its worker does.
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

from models import logs
from models.blobs import BlobError
from models.crash import crash_point
from models.db import transaction
from models.queries import leases
from models.queries.leases import Lease, LeaseLost
from models.settings import settings
from models.status import JobStatus
from worker.desk import Desk
from worker.heart import WHY, Heart
from worker.order import write_order
from worker.places import NotHere
from worker.process import Runner
from worker.room import out_of_room
from worker.scratch import scratch_folder

log = logging.getLogger(__name__)

RUNNER = (sys.executable, "-m", "worker.runner")
RETRY_SECONDS = 0.5
MOST_RESTS = 30  # times sweep_seconds: 5 minutes
Error = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Ending:
    """How a run went: killed for a reason (`why`), said to be finished, failed for good (`error`), or just dead."""

    why: WHY | None = None
    finished: bool = False
    error: Error | None = None
    death: Error | None = None
    fault: Error | None = None  # this machine's, not the job's: the attempt does not count


class Supervisor:
    """One slot: a worker process runs one thing at a time. `command` starts a runner; tests give a quicker one."""

    def __init__(self, *, command: Sequence[str] = RUNNER, name: str | None = None) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"  # in containers, pids repeat
        self._command = tuple(command)
        self._slot = threading.Lock()
        self._stopping = threading.Event()
        self._heart: Heart | None = None
        self._rest = Rest()

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
        """The running job goes back to the queue as soon as its runner has left a checkpoint, and no other is taken."""
        self._stopping.set()
        heart = self._heart
        if heart:
            heart.nudge()

    def _next(self) -> bool:
        """One job, or one help; False when there was nothing to do, or nothing came of the help."""
        if self._rest.goes_on():
            return False
        with transaction() as session:
            lease = leases.claim_job(session, self.name)
            crash_point("claim.before_commit")
        if lease:
            crash_point("claim.after_commit")
        else:
            with transaction() as session:
                lease = leases.claim_help(session, self.name)
        if lease is None:
            return False
        with logs.about(job_id=lease.job_id, tenant=lease.tenant):
            return self._serve(lease)

    def _serve(self, lease: Lease) -> bool:
        log.info("%s %s (token %d)", "helping with" if lease.helper else "running", lease.job_id, lease.token)
        try:
            with scratch_folder(lease) as scratch:
                desk = Desk(lease, scratch)
                ending = self._run(lease, desk)
                self._conclude(lease, ending)
                return desk.chunks_done > 0 if lease.helper else ending.fault is None
        except Exception as problem:  # no process left to start, no folder to be made
            log.exception("%s could not be run", lease.job_id)
            message = f"the worker could not start ({type(problem).__name__})"
            self._conclude(lease, _no_room() if out_of_room(problem) else Ending(death=_error("internal_error", message)))
            return False

    def _conclude(self, lease: Lease, ending: Ending) -> None:
        """A machine at fault rests before it takes anything else: the job is free for others meanwhile."""
        if ending.fault:
            self._rest.begin(ending.fault["message"])
        else:
            self._rest.over()
        conclude(lease, ending)

    def _run(self, lease: Lease, desk: Desk) -> Ending:
        """The lease is kept from now on: fetching what a job needs may take longer than one lasts."""
        self._heart = heart = Heart(lease, desk, self._stopping)
        heart.start()
        try:
            with desk.turn():
                order = write_order(lease, desk.scratch)
            desk.rounds, desk.fork = order["spec"].get("rounds", 1), order["fork"]
            crash_point("order.written")
            status, trouble = (0, None) if heart.why else self._serve_runner(lease, order, desk, heart)
        except BlobError as problem:
            return Ending(error=_error("file_unreadable", f"A file of the job cannot be read: {problem}."))
        except NotHere as problem:
            return Ending(error=_error(problem.code, str(problem), param=problem.param))
        finally:
            heart.stop()
            self._heart = None
        return how_it_went(lease, desk, heart, status, trouble)

    def _serve_runner(self, lease: Lease, order: dict[str, Any], desk: Desk, heart: Heart) -> tuple[int, Exception | None]:
        """A runner's whole life, in this thread: on Linux a child dies with the thread that started it."""
        trouble: Exception | None = None
        runner = Runner(self._command, desk.scratch)
        try:
            heart.watch(runner)
            runner.say(order)
            crash_point("runner.started")
            for message in runner.messages():
                answer = patiently(partial(desk.answer, message), until=lambda: heart.why is not None)
                if answer is not None:
                    runner.say(answer)
        except Exception as problem:
            trouble = problem
            runner.kill()
        return runner.wait(), trouble


class Rest:
    """After a fault of its machine a worker takes nothing for a while, longer each time it finds the fault still there."""

    def __init__(self) -> None:
        self._times, self._until = 0, 0.0

    def goes_on(self) -> bool:
        return time.monotonic() < self._until

    def begin(self, why: str) -> None:
        seconds = settings().sweep_seconds * min(2**self._times, MOST_RESTS)
        self._times, self._until = self._times + 1, time.monotonic() + seconds
        log.error("%s; this worker takes no job for %g s", why, seconds)

    def over(self) -> None:
        self._times, self._until = 0, 0.0


def how_it_went(lease: Lease, desk: Desk, heart: Heart, status: int, trouble: Exception | None) -> Ending:
    if isinstance(trouble, LeaseLost):
        return Ending(why="lost")
    if heart.why == "stalled":
        return Ending(death=_error("stalled", heart.stall))
    if (trouble and out_of_room(trouble)) or (desk.ending or {}).get("error", {}).get("code") == "storage_full":
        return _no_room()
    told_to_stop = heart.why in ("stopping", "paused")
    if heart.why and not (told_to_stop and desk.ending and not trouble):
        return Ending(why=heart.why)
    if trouble:
        log.error("the runner of %s was killed: its worker could not serve it", lease.job_id, exc_info=trouble)
        message = f"the worker could not serve its runner ({type(trouble).__name__}); its log holds the details"
        return Ending(death=_error("internal_error", message))
    if desk.ending and desk.ending.get("stopped"):
        return Ending(why=heart.why or "stopping")  # somebody other than this worker may have told it
    if desk.ending and desk.ending.get("again"):
        return Ending(death=desk.ending["error"])  # one attempt: the next goes on from the chunks that are done
    if desk.ending:
        return Ending(finished="finished" in desk.ending, error=desk.ending.get("error"))
    if status == -signal.SIGKILL:
        return Ending(death=_error("out_of_memory", "the runner was killed from outside, most often for lack of memory"))
    return Ending(death=_error("worker_lost", f"the runner ended unexpectedly (exit status {status})"))


def conclude(lease: Lease, ending: Ending) -> None:
    """Writes the ending down, fenced. A database that cannot be reached leaves it to the sweeper."""
    if lease.helper and (trouble := ending.error or ending.death or ending.fault):
        log.warning("help with %s came to nothing: %s", lease.job_id, trouble["message"])
    deadline = time.monotonic() + settings().lease_seconds
    try:
        outcome = patiently(lambda: _write_ending(lease, ending), until=lambda: time.monotonic() > deadline)
    except Exception:
        log.exception("the end of %s could not be written; it is swept when its lease is over", lease.job_id)
    else:
        crash_point("ending.after_commit")
        log.info("%s: %s", lease.job_id, outcome or ("no longer helped" if lease.helper else "lost to another worker"))


def _write_ending(lease: Lease, ending: Ending) -> JobStatus | None:
    with transaction() as session:
        crash_point("ending.before_commit")
        if lease.helper or ending.why in ("stopping", "paused"):
            return leases.release(session, lease, counted=False)
        if ending.why == "lost":
            return None
        if ending.fault:
            return leases.release(session, lease, counted=False, error=ending.fault)
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


def _no_room() -> Ending:
    return Ending(fault=_error("storage_full", "its worker has no room on its disk; it is tried again when there is some"))


def _error(code: str, message: str, param: str | None = None) -> Error:
    return {"code": code, "message": message, "param": param, "hint": None}

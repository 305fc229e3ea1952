"""The heartbeat of one run: a thread that prolongs the lease, and kills the runner when there is a reason to."""

import logging
import threading
import time
from typing import Literal

from models.db import transaction
from models.queries import leases
from models.queries.events import add_event
from models.queries.leases import Lease
from models.settings import settings
from worker.desk import Desk
from worker.process import Runner

log = logging.getLogger(__name__)

WHY = Literal["cancelled", "lost", "stopping"]
LEASE_SHARE = 0.8  # without a heartbeat for this share of a lease, the work is taken for lost before the others take it


class Heart(threading.Thread):
    """`why` says what it killed the runner for; None while it did not."""

    def __init__(self, lease: Lease, runner: Runner, desk: Desk, stopping: threading.Event) -> None:
        super().__init__(name=f"semift-heart-{lease.job_id}", daemon=True)
        self._lease, self._runner, self._desk, self._stopping = lease, runner, desk, stopping
        self._nudged, self._ended = threading.Event(), False
        self.why: WHY | None = None

    def run(self) -> None:
        periods, good = settings(), time.monotonic()
        grace = min(periods.kill_grace_seconds, periods.lease_seconds / 3)  # nobody beats meanwhile
        while self.why is None:
            self._nudged.wait(periods.heartbeat_seconds)
            if self._ended:
                return
            if self._stopping.is_set():
                self._kill("stopping", grace)
                return
            self._runner.kill_orphans()
            try:
                beat = self._beat()
            except Exception:
                log.exception("no heartbeat of %s", self._lease.job_id)
                if time.monotonic() - good > LEASE_SHARE * periods.lease_seconds:
                    self._kill("lost", 0)
                continue
            good = time.monotonic()
            if not beat.held:
                self._kill("lost", 0)
            elif beat.cancel:
                self._kill("cancelled", grace)

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

    def _kill(self, why: WHY, grace: float) -> None:
        self.why = why
        self._runner.kill(grace)

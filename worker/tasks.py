"""What a worker process does: one task, and two threads beside it (housekeeper.py) for as long as the worker lives."""

from typing import Any

from celery.signals import worker_init, worker_shutdown, worker_shutting_down

from worker.app import RING, celery
from worker.housekeeper import Housekeeper
from worker.scratch import remove_abandoned
from worker.supervisor import Supervisor

supervisor = Supervisor()


def look_for_work() -> None:
    remove_abandoned()
    supervisor.work(wait=False)


housekeeper = Housekeeper(idle=look_for_work)


@celery.task(name=RING)  # type: ignore[untyped-decorator]
def ring(job_id: str) -> None:
    """Somebody says that there is work. Which work, the database says: `job_id` is for the log."""
    supervisor.work()


@worker_init.connect  # type: ignore[untyped-decorator]
def _start(**_: Any) -> None:
    """Before the broker is looked for: a worker whose broker is away works all the same."""
    housekeeper.start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_working(**_: Any) -> None:
    supervisor.stop()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    housekeeper.stop()

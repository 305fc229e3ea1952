"""What a worker process does: one task, and two threads beside it (housekeeper.py) for as long as the worker lives."""

import logging
from pathlib import Path
from typing import Any

from celery.signals import setup_logging, worker_init, worker_shutdown, worker_shutting_down

from models import logs
from models.settings import settings
from worker.app import RING, celery
from worker.housekeeper import Housekeeper
from worker.scratch import remove_abandoned
from worker.semisup.errors import LmNotFound
from worker.semisup.folders import check_lm_folder
from worker.supervisor import Supervisor

log = logging.getLogger(__name__)

supervisor = Supervisor()


def look_for_work() -> None:
    remove_abandoned()
    supervisor.work(wait=False)


def look_at_lms() -> None:
    """What is wrong with the operator's LMs is told now; a job that names such a one is refused with the same words."""
    for name, place in settings().base_lms.items():
        if not place.startswith("bundled:"):
            try:
                check_lm_folder(Path(place), name)
            except LmNotFound as problem:
                log.error("%s", problem.message)


housekeeper = Housekeeper(idle=look_for_work)


@celery.task(name=RING)  # type: ignore[untyped-decorator]
def ring(job_id: str) -> None:
    """Somebody says that there is work. Which work, the database says: `job_id` is for the log."""
    supervisor.work()


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    """Celery leaves logging alone when somebody listens to this."""
    logs.start("worker", error_text=settings().log_error_text)


@worker_init.connect  # type: ignore[untyped-decorator]
def _start(**_: Any) -> None:
    """Before the broker is looked for: a worker whose broker is away works all the same."""
    look_at_lms()
    housekeeper.start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_working(**_: Any) -> None:
    supervisor.stop()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    housekeeper.stop()

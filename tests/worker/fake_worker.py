"""A real Celery worker whose runner is the fake one: `celery -A tests.worker.fake_worker worker …`."""

import os

from models.settings import Settings
from tests.worker.fake_runner import COMMAND
from worker import tasks
from worker.app import WORKER_ARGS, celery
from worker.supervisor import Supervisor

__all__ = ["ARGS", "LOOKS_ONCE", "celery"]

LOOKS_ONCE = "SEMIFT_TEST_LOOKS_ONCE"  # set: a worker looks around as it begins, and then not for hours
ARGS = tuple("tests.worker.fake_worker" if argument == "worker.app" else argument for argument in WORKER_ARGS)
tasks.supervisor = Supervisor(command=COMMAND)
if LOOKS_ONCE in os.environ:
    Settings.sweep_seconds = 1e5  # type: ignore[assignment, misc]

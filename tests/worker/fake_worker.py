"""A real Celery worker whose runner is the fake one: `celery -A tests.worker.fake_worker worker …`."""

from tests.worker.fake_runner import COMMAND
from worker import tasks
from worker.app import WORKER_ARGS, celery
from worker.supervisor import Supervisor

__all__ = ["ARGS", "celery"]

ARGS = tuple("tests.worker.fake_worker" if argument == "worker.app" else argument for argument in WORKER_ARGS)
tasks.supervisor = Supervisor(command=COMMAND)

"""A real Celery worker with the runner of chaos, and with a bug when CHAOS_BUG names one."""

from tests.chaos.planted import plant

BUG = plant()  # before anything binds what it changes

from tests.chaos.runner import COMMAND  # noqa: E402
from worker import tasks  # noqa: E402
from worker.app import WORKER_ARGS, celery  # noqa: E402
from worker.housekeeper import Housekeeper  # noqa: E402
from worker.supervisor import Supervisor  # noqa: E402

__all__ = ["ARGS", "celery"]

ARGS = tuple("tests.chaos.worker" if argument == "worker.app" else argument for argument in WORKER_ARGS)
tasks.supervisor = Supervisor(command=COMMAND)
if BUG == "outbox skipped":
    tasks.housekeeper = Housekeeper()

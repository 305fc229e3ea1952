"""A worker without a broker, for tests that kill it by the dozen: looks for work until a job has ended, then goes."""

import time

from models.db import transaction
from models.settings import settings
from models.status import TERMINAL
from models.tables import Job
from tests.worker.fake_runner import COMMAND
from worker import housekeeper
from worker.supervisor import Supervisor


def main(job_id: str, command: tuple[str, ...] = COMMAND) -> None:
    housekeeper.publish = lambda job_ids: None  # nobody listens: workers find their work in the database
    supervisor = Supervisor(command=command)
    while True:
        housekeeper.ring_waiting()
        housekeeper.sweep_silent()
        supervisor.work(wait=False)
        with transaction(read_only=True) as session:
            if session.get_one(Job, job_id).status in TERMINAL:
                return
        time.sleep(settings().heartbeat_seconds)

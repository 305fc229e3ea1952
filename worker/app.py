"""The Celery app: a doorbell between API and workers. No torch, and nothing here decides anything: the database does.

A worker is started as `python -m celery *WORKER_ARGS`. One thread (`-P threads -c 1`): the process supervises a runner, it
never computes, so it answers pings and reads its database while a job runs for hours.
"""

from pathlib import Path
from typing import Any

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from models.settings import Settings, settings

RING = "semift.ring"
QUEUE = "jobs"
WORKER_ARGS = (
    *("-A", "worker.app", "worker", "-P", "threads", "-c", "1", "-Q", QUEUE),
    *("--without-gossip", "--without-mingle", "--loglevel", "INFO"),
)
FILESYSTEM_POLL_SECONDS = 0.1
SOCKET_SECONDS = 2


def configuration() -> dict[str, Any]:
    """Every setting that keeps a message a doorbell (reliability: acknowledged early, never retried, no results, JSON)."""
    return {
        "broker_url": settings().broker,
        "broker_transport_options": transport_options(settings()),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker whose broker is away works all the same, and hears it when it is back
        "broker_channel_error_retry": True,  # also one that answers "no": a Redis without memory
        "worker_consumer": "worker.consumer:PatientConsumer",
        "result_backend": None,
        "imports": ("worker.tasks",),
        "task_default_queue": QUEUE,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_ignore_result": True,
        "task_publish_retry": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": settings().broker.startswith("redis"),  # other transports warn and ignore it
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_enable_remote_control": True,
    }


def transport_options(with_settings: Settings) -> dict[str, Any]:
    if with_settings.broker.startswith("filesystem"):
        folder = with_settings.data_dir.resolve() / "broker"
        return {
            "data_folder_in": _made(folder / "queue"),
            "data_folder_out": _made(folder / "queue"),
            "control_folder": _made(folder / "control"),
            "polling_interval": FILESYSTEM_POLL_SECONDS,
        }
    return {
        "global_keyprefix": with_settings.broker_prefix,
        "visibility_timeout": 3600,  # of no importance: a doorbell is acknowledged when it is heard
        "socket_timeout": 5,
        "socket_connect_timeout": SOCKET_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": True,
    }


def publish(job_ids: list[str]) -> None:
    """Rings once for each. Raises when the broker does not answer within SOCKET_SECONDS: nobody waits for a broker.

    A connection of its own each time: one that broke while it was idle is never found out by the next caller.
    """
    options = transport_options(settings()) | {"socket_timeout": SOCKET_SECONDS, "retry_on_timeout": False, "max_retries": 0}
    with celery.connection_for_write(
        settings().broker, connect_timeout=SOCKET_SECONDS, transport_options=options
    ) as connection:
        for job_id in job_ids:
            celery.send_task(RING, args=[job_id], connection=connection, queue=QUEUE, retry=False)


def _made(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


TRANSPORT_ALIASES["filesystem"] = "worker.folder_broker:Transport"  # kombu's own lets readers meet half a message
celery = Celery("semift", set_as_current=False)
celery.add_defaults(configuration)  # read when first needed, not on import

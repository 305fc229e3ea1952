"""The states of a job and the moves between them, as data. Terminal states never change."""

from enum import StrEnum


class JobStatus(StrEnum):
    validating_files = "validating_files"
    queued = "queued"
    running = "running"
    paused = "paused"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


class Happening(StrEnum):
    """What may befall a job. A wish (a cancel or a pause asked of a running job) is none: it waits for the worker."""

    validated = "validated"
    claimed = "claimed"  # by a worker; also a running job whose worker went silent
    given_back = "given_back"  # an attempt ended and the job did not
    paused = "paused"
    resumed = "resumed"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


class NoSuchMove(ValueError):
    def __init__(self, status: JobStatus, happening: Happening) -> None:
        super().__init__(f"a job that is {status} cannot be {happening.replace('_', ' ')}")


S, H = JobStatus, Happening
MOVES: dict[JobStatus, dict[Happening, JobStatus]] = {
    S.validating_files: {H.validated: S.queued, H.failed: S.failed, H.cancelled: S.cancelled},
    S.queued: {H.claimed: S.running, H.paused: S.paused, H.failed: S.failed, H.cancelled: S.cancelled},
    S.running: {
        H.claimed: S.running,
        H.given_back: S.queued,
        H.paused: S.paused,
        H.succeeded: S.succeeded,
        H.failed: S.failed,
        H.cancelled: S.cancelled,
    },
    S.paused: {H.resumed: S.queued, H.cancelled: S.cancelled},
    S.succeeded: {},
    S.failed: {},
    S.cancelled: {},
}
TERMINAL = frozenset(status for status, moves in MOVES.items() if not moves)


def after(status: str, happening: Happening) -> JobStatus:
    """The status a job has after what happened to it: the only way one is ever set. Raises NoSuchMove."""
    now = JobStatus(status)
    if happening not in MOVES[now]:
        raise NoSuchMove(now, happening)
    return MOVES[now][happening]


class FileStatus(StrEnum):
    uploaded = "uploaded"
    processed = "processed"
    error = "error"
    deleted = "deleted"


class UploadStatus(StrEnum):
    """Of an upload in parts; only a pending one ever changes."""

    pending = "pending"
    completed = "completed"
    cancelled = "cancelled"
    expired = "expired"

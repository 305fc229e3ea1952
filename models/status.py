"""The states of a job and the moves between them, as data. Terminal states never change."""

from enum import StrEnum


class JobStatus(StrEnum):
    validating_files = "validating_files"
    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


S = JobStatus
NEXT: dict[JobStatus, frozenset[JobStatus]] = {
    S.validating_files: frozenset({S.queued, S.failed, S.cancelled}),
    S.queued: frozenset({S.running, S.failed, S.cancelled}),
    S.running: frozenset({S.succeeded, S.failed, S.cancelled, S.queued}),
    S.succeeded: frozenset(),
    S.failed: frozenset(),
    S.cancelled: frozenset(),
}
TERMINAL = frozenset(status for status, following in NEXT.items() if not following)


class FileStatus(StrEnum):
    uploaded = "uploaded"
    processed = "processed"
    error = "error"
    deleted = "deleted"

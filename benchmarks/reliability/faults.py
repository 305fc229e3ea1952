"""The simple faults both are put through, in words, and what came of one."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Of `jobs` submitted: how many came to the end that was due, how many wrote something twice. `broken`: another promise."""

    jobs: int
    ended: int
    doubled: int
    note: str = ""
    broken: bool = False

    @property
    def lost(self) -> int:
        return 0 if self.note == "stopped" else self.jobs - self.ended

    @property
    def harmless(self) -> bool:
        return not (self.lost or self.doubled or self.broken)

    def words(self) -> str:
        parts = [f"{self.ended} of {self.jobs} ended"] if self.note != "stopped" else []
        parts += [f"{self.doubled} doubled"] if self.doubled else []
        return ", ".join([*parts, *([self.note] if self.note else [])])


FLUSHED = 10  # a worker has fetched four ahead by default: more must wait in Redis than that
WORDS: Mapping[str, str] = {
    "kill_worker": "kill -9 of the worker in the middle of a job, and a new worker",
    "kill_runner": "kill -9 of the process that computes (naive: acks_late)",
    "kill_runner_requeued": "the same (naive: acks_late and reject_on_worker_lost)",
    "flushall": f"Redis FLUSHALL with one job running and {FLUSHED - 1} waiting",
    "kill_redis": "kill -9 of Redis, and an empty one in its place; five jobs",
    "duplicates": "every message three times",
    "cancel": "a cancel of the running job (naive: revoke(terminate=True), threads pool)",
    "frozen_broker": "a submit while Redis is frozen (SIGSTOP)",
}

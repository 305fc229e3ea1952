"""What a job's protocol promises, on two ledgers: a plain one in memory and the real queries. And its planted bugs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import update

from models.db import transaction
from models.queries import jobs, leases, stages
from models.queries.leases import Lease, LeaseLost
from models.status import TERMINAL, Happening, JobStatus, after
from models.tables import Job, Stage
from tests.models.moves import MANIFEST
from tests.rows import TENANT, add_file, add_job, let_lease_expire, set_job

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Seen:
    """What anybody can see of a job."""

    status: str
    token: int
    recorded: tuple[str, ...]  # stages, as often as they were recorded


class Ledger(Protocol):
    """Every call is one transaction. A refused write returns False and changes nothing."""

    def submit(self) -> str: ...
    def claim(self) -> tuple[str, int] | None: ...
    def expire(self, job: str) -> None: ...
    def beat(self, job: str, token: int) -> bool: ...
    def commit(self, job: str, token: int, stage: str) -> bool: ...
    def finish(self, job: str, token: int, *, well: bool) -> bool: ...
    def release(self, job: str, token: int, *, counted: bool) -> bool: ...
    def sweep(self) -> None: ...
    def cancel(self, job: str) -> None: ...
    def pause(self, job: str) -> None: ...
    def resume(self, job: str) -> None: ...
    def see(self, job: str) -> Seen: ...


@dataclass
class Entry:
    status: JobStatus = JobStatus.queued
    token: int = 0
    expired: bool = False
    attempt: int = 0
    cancel: bool = False
    pause: bool = False
    recorded: list[str] = field(default_factory=list)


@dataclass
class PlainLedger:
    """The protocol in memory: every status comes from `after`."""

    entries: dict[str, Entry] = field(default_factory=dict)
    tokens: int = 0

    def submit(self) -> str:
        job = f"job-{len(self.entries)}"
        self.entries[job] = Entry()
        return job

    def claim(self) -> tuple[str, int] | None:
        for job, entry in self.entries.items():
            silent = entry.status == JobStatus.running and entry.expired and entry.attempt < MAX_ATTEMPTS
            if (entry.status == JobStatus.queued or silent) and not entry.cancel and not entry.pause:
                self.tokens += 1
                entry.status = after(entry.status, Happening.claimed)
                entry.token, entry.expired, entry.attempt = self.tokens, False, entry.attempt + 1
                return job, entry.token
        return None

    def expire(self, job: str) -> None:
        self.entries[job].expired = True

    def held(self, job: str, token: int) -> bool:
        return self.entries[job].status == JobStatus.running and self.entries[job].token == token

    def beat(self, job: str, token: int) -> bool:
        if not self.held(job, token):
            return False
        self.entries[job].expired = False
        return True

    def commit(self, job: str, token: int, stage: str) -> bool:
        if not self.held(job, token):
            return False
        if stage not in self.entries[job].recorded:
            self.entries[job].recorded.append(stage)
            self.entries[job].attempt = 0
        return True

    def finish(self, job: str, token: int, *, well: bool) -> bool:
        entry = self.entries[job]
        if not self.held(job, token):
            return False
        ending = Happening.cancelled if entry.cancel else Happening.succeeded if well else Happening.failed
        entry.status = after(entry.status, ending)
        return True

    def release(self, job: str, token: int, *, counted: bool) -> bool:
        if not self.held(job, token):
            return False
        self.entries[job].attempt -= 0 if counted else 1
        self._end_attempt(self.entries[job], counted)
        return True

    def sweep(self) -> None:
        for entry in self.entries.values():
            if entry.status == JobStatus.running and entry.expired:
                self._end_attempt(entry, counted=True)

    def _end_attempt(self, entry: Entry, counted: bool) -> None:
        spent = counted and entry.attempt >= MAX_ATTEMPTS
        wish = Happening.cancelled if entry.cancel else Happening.paused if entry.pause else None
        entry.status = after(entry.status, wish or (Happening.failed if spent else Happening.given_back))

    def cancel(self, job: str) -> None:
        entry = self.entries[job]
        if entry.status == JobStatus.running:
            entry.cancel = True
        elif entry.status not in TERMINAL:
            entry.status = after(entry.status, Happening.cancelled)

    def pause(self, job: str) -> None:
        entry = self.entries[job]
        if entry.status == JobStatus.running and not entry.cancel:
            entry.pause = True
        elif entry.status == JobStatus.queued:
            entry.status, entry.pause = after(entry.status, Happening.paused), True

    def resume(self, job: str) -> None:
        entry = self.entries[job]
        if entry.status == JobStatus.paused:
            entry.status, entry.attempt = after(entry.status, Happening.resumed), 0
        if entry.status in (JobStatus.queued, JobStatus.running):
            entry.pause = False

    def see(self, job: str) -> Seen:
        entry = self.entries[job]
        return Seen(entry.status, entry.token, tuple(entry.recorded))


# --- planted bugs: a checker that passes these checks nothing ----------------------------------------------------------


class NoTokenCheck(PlainLedger):
    """Whoever once had a lease may write."""

    def held(self, job: str, token: int) -> bool:
        return self.entries[job].status == JobStatus.running


class StageRecordedTwice(PlainLedger):
    """A worker that asks again because it heard no answer records its stage again."""

    def commit(self, job: str, token: int, stage: str) -> bool:
        if not self.held(job, token):
            return False
        self.entries[job].recorded.append(stage)
        return True


class CancelOverwritesTheEnd(PlainLedger):
    """A cancel that comes late turns a success into something else."""

    def cancel(self, job: str) -> None:
        entry = self.entries[job]
        if entry.status == JobStatus.running:
            entry.cancel = True
        else:
            entry.status = JobStatus.cancelled


BUGS: Mapping[str, type[PlainLedger]] = {
    "no token check": NoTokenCheck,
    "a stage recorded twice": StageRecordedTwice,
    "a cancel overwrites the end": CancelOverwritesTheEnd,
}


# --- the real queries --------------------------------------------------------------------------------------------------


class QueryLedger:
    """The same words, said to a database."""

    def __init__(self) -> None:
        """Jobs of an earlier play are out of it."""
        self._file = add_file()
        with transaction() as session:
            session.execute(update(Job).values(status=JobStatus.cancelled, lease_until=None))

    def submit(self) -> str:
        return add_job(training_file=self._file)

    def claim(self) -> tuple[str, int] | None:
        with transaction() as session:
            lease = leases.claim_job(session, "w")
        return (lease.job_id, lease.token) if lease else None

    def expire(self, job: str) -> None:
        if self.see(job).status == JobStatus.running:
            let_lease_expire(job)

    def beat(self, job: str, token: int) -> bool:
        with transaction() as session:
            return leases.heartbeat(session, Lease(job, token, "w")).held

    def commit(self, job: str, token: int, stage: str) -> bool:
        try:
            with transaction() as session:
                stages.commit_stage(session, Lease(job, token, "w"), stage, MANIFEST, {}, 0.5)
        except LeaseLost:
            return False
        return True

    def finish(self, job: str, token: int, *, well: bool) -> bool:
        status = JobStatus.succeeded if well else JobStatus.failed
        with transaction() as session:
            return leases.finish(session, Lease(job, token, "w"), status) is not None

    def release(self, job: str, token: int, *, counted: bool) -> bool:
        with transaction() as session:
            released = leases.release(session, Lease(job, token, "w"), counted=counted)
        self._now(job)
        return released is not None

    def sweep(self) -> None:
        with transaction() as session:
            freed = leases.sweep(session)
        for job in freed:
            self._now(job)

    def _now(self, job: str) -> None:
        set_job(job, next_attempt_at=None)  # nobody waits here

    def cancel(self, job: str) -> None:
        with transaction() as session:
            status = jobs.lock_status(session, TENANT, job)
            if status == JobStatus.running:
                jobs.request_cancel(session, job)
            elif status and status not in TERMINAL:
                jobs.cancel_waiting(session, job, status)

    def pause(self, job: str) -> None:
        with transaction() as session:
            status = jobs.lock_status(session, TENANT, job)
            if status == JobStatus.running and session.get_one(Job, job).cancel_requested_at is None:
                jobs.request_pause(session, job)
            elif status == JobStatus.queued:
                jobs.pause_waiting(session, job, status)

    def resume(self, job: str) -> None:
        with transaction() as session:
            status = jobs.lock_status(session, TENANT, job)
            if status == JobStatus.paused:
                jobs.resume(session, job, status)
            elif status == JobStatus.running:
                jobs.withdraw_pause(session, job)

    def see(self, job: str) -> Seen:
        with transaction(read_only=True) as session:
            row = session.get_one(Job, job)
            done = session.query(Stage.name).where(Stage.job_id == job, Stage.status == "done").order_by(Stage.position)
            return Seen(row.status, row.lease_token, tuple(name for (name,) in done))

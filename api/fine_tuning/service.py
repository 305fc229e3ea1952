"""Jobs: an order becomes a row, an event and a doorbell in one transaction; the rest is reading, and asking for an end."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from api import background, limits
from api.deps import Caller, PageAsked
from api.errors import Conflict, NotFound
from api.fine_tuning import checks, lineage
from api.fine_tuning.collaborators import check_collaborators
from api.fine_tuning.lengths import check_lengths
from api.fine_tuning.memory import check_memory
from api.fine_tuning.order import Order, read_order
from api.fine_tuning.schemas import FineTuningJob
from api.fine_tuning.seen import check_seen
from api.fine_tuning.wire import job_object
from api.once import Once, Ticket
from api.wire import ListOf, list_of
from models import logs
from models.crash import crash_point
from models.db import transaction
from models.queries import evidence, files, jobs
from models.queries.events import add_event
from models.queries.outbox import ring
from models.status import TERMINAL, JobStatus

OPENAI_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")


def create(caller: Caller, body: Mapping[str, Any], once: Once) -> FineTuningJob | Response:
    """A job, or what was answered when this was asked before."""
    return once.run(caller, "createFineTuningJob", body, lambda ticket: _create(caller, body, ticket))


def _create(caller: Caller, body: Mapping[str, Any], ticket: Ticket) -> FineTuningJob:
    """Everything that can be known to fail is refused here, before the job is queued."""
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        order = read_order(body, lineage.Mine(session, caller))
    checks.check_model(order)
    checks.check_distinct(order)
    checks.check_open(order)
    check_memory(order.model, order.spec)
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        check_collaborators(session, caller, order)
        rows = {param: _file(session, caller, order, param, file_id) for param, file_id in order.file_ids().items()}
    warned = checks.check_files(order, rows) + check_lengths(order, rows)
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        seen = check_seen(session, caller, order, rows)
        fork = lineage.plan(session, order.before, order.spec)
    with transaction(tenant=caller.tenant_id) as session:
        ticket.take(session)
        limits.check_jobs(session, caller.tenant_id)
        for file_id, param in sorted((file_id, param) for param, file_id in order.file_ids().items()):
            if files.lock_file(session, caller.tenant_id, file_id) is None:  # deleted since it was checked
                raise checks.missing_file(param, file_id, order.inherited.get(param))
        job_id = _insert(session, caller, order, fork)
        add_event(session, job_id, f"Created fine-tuning job: {job_id}")
        if order.before.start is not None:
            start = order.before.start["id"]
            add_event(session, job_id, f"Training goes on from the adapter of {start}", data={"from_job": start})
        if fork is not None:
            add_event(session, job_id, lineage.told(fork), data={"fork": fork})
        for warning in seen + warned:
            add_event(session, job_id, warning.message, level="warn", data=warning.data)
        ring(session, job_id)
        made = job_object(must_have(session, caller, job_id), [])
        ticket.answer(session, made)
        crash_point("submit.before_commit")
    crash_point("submit.after_commit")
    logs.note(job_id=made.id)
    background.ring_doorbells()
    return made


def listing(caller: Caller, metadata: Mapping[str, str], asked: PageAsked) -> ListOf[FineTuningJob]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        page = jobs.page_jobs(session, caller.tenant_id, metadata=metadata, **asked._asdict())
        results: dict[str, list[str]] = {row["id"]: [] for row in page.rows}
        for found in evidence.artifact_paths(session, caller.tenant_id, list(results)):
            results[found["job_id"]].append(found["path"])
    return list_of([job_object(row, results[row["id"]]) for row in page.rows], page.has_more)


def retrieve(caller: Caller, job_id: str) -> FineTuningJob:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        return _read(session, caller, job_id)


def cancel(caller: Caller, job_id: str) -> FineTuningJob:
    """Idempotent: asked twice, or of a cancelled job, it changes nothing. Raises Conflict for a job that ended otherwise."""
    with transaction(tenant=caller.tenant_id) as session:
        status = jobs.lock_status(session, caller.tenant_id, job_id)
        if status in (JobStatus.succeeded, JobStatus.failed):
            raise Conflict(
                f"The job has {status} and cannot be cancelled.",
                code="invalid_state",
                param="status",
                hint="Nothing is left to stop.",
            )
        if status in (JobStatus.queued, JobStatus.validating_files, JobStatus.paused):
            jobs.cancel_waiting(session, job_id, status)
            add_event(session, job_id, "The job was cancelled")
        elif status == JobStatus.running and jobs.request_cancel(session, job_id):
            add_event(session, job_id, "Cancellation was requested")
        return _read(session, caller, job_id)


def pause(caller: Caller, job_id: str) -> FineTuningJob:
    """A waiting job rests at once, a running one after its next step or chunk. Idempotent. Raises Conflict for an ended one."""
    with transaction(tenant=caller.tenant_id) as session:
        status = jobs.lock_status(session, caller.tenant_id, job_id)
        _still_going(session, caller, job_id, status, "paused")
        if status == JobStatus.queued:
            jobs.pause_waiting(session, job_id, status)
            add_event(session, job_id, "The job was paused")
        elif status == JobStatus.running and jobs.request_pause(session, job_id):
            add_event(session, job_id, "A pause was requested")
        return _read(session, caller, job_id)


def resume(caller: Caller, job_id: str) -> FineTuningJob:
    """Back into the queue, or a pause withdrawn that has not come about. Idempotent. Raises Conflict for a job that ended."""
    with transaction(tenant=caller.tenant_id) as session:
        status = jobs.lock_status(session, caller.tenant_id, job_id)
        _still_going(session, caller, job_id, status, "resumed")
        if status == JobStatus.paused:
            jobs.resume(session, job_id, status)
            ring(session, job_id)
            add_event(session, job_id, "The job was resumed")
        elif status == JobStatus.running and jobs.withdraw_pause(session, job_id):
            add_event(session, job_id, "The pause was withdrawn")
        found = _read(session, caller, job_id)
    background.ring_doorbells()
    return found


def _still_going(session: Session, caller: Caller, job_id: str, status: JobStatus | None, what: str) -> None:
    """Raises Conflict for a job that has ended, or is about to be cancelled."""
    if status in TERMINAL:
        problem, hint = f"The job has {status}" if status != JobStatus.cancelled else "The job was cancelled", "It stays so."
    elif status and must_have(session, caller, job_id)["cancel_requested_at"] is not None:
        problem, hint = "The job is being cancelled", "Wait until it has ended."
    else:
        return
    raise Conflict(f"{problem} and cannot be {what}.", code="invalid_state", param="status", hint=hint)


def must_have(session: Session, caller: Caller, job_id: str) -> RowMapping:
    """Raises NotFound, in the same words for another tenant's job as for none."""
    row = jobs.get_job(session, caller.tenant_id, job_id)
    if row is None:
        shown = job_id[:64].encode("ascii", "backslashreplace").decode()
        raise NotFound(
            f"No job '{shown}'.", code="job_not_found", param="fine_tuning_job_id", hint="GET /v1/fine_tuning/jobs lists yours."
        )
    return row


def _read(session: Session, caller: Caller, job_id: str) -> FineTuningJob:
    row = must_have(session, caller, job_id)
    finished = row["status"] == JobStatus.succeeded
    found = evidence.artifact_paths(session, caller.tenant_id, [job_id]) if finished else ()
    return job_object(row, [artifact["path"] for artifact in found])


def _file(session: Session, caller: Caller, order: Order, param: str, file_id: str) -> RowMapping:
    row = files.get_file(session, caller.tenant_id, file_id)
    if row is None:
        raise checks.missing_file(param, file_id, order.inherited.get(param))
    return row


def _insert(session: Session, caller: Caller, order: Order, fork: dict[str, Any] | None) -> str:
    spec = order.spec.model_dump(mode="json")
    block = {"unlabeled_file": order.unlabeled_file, "test_file": order.test_file, **spec}
    hyperparameters = {name: getattr(order.spec.hyperparameters, name) for name in OPENAI_HYPERPARAMETERS}
    method: dict[str, Any] = {"type": order.method_type}
    if order.method_type == "supervised":
        method["supervised"] = {"hyperparameters": hyperparameters}
    if order.unlabeled_file is not None:
        method["semi_supervised"] = block
    return jobs.insert_job(
        session,
        caller.tenant_id,
        base_lm=order.model,
        suffix=order.suffix,
        method=method,
        spec=spec,
        job_metadata=order.metadata,
        training_file=order.training_file,
        validation_file=order.validation_file,
        unlabeled_file=order.unlabeled_file,
        test_file=order.test_file,
        from_job=order.before.start["id"] if order.before.start is not None else None,
        fork=fork,
    )

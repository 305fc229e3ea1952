"""Jobs: an order becomes a row, an event and a doorbell in one transaction; the rest is reading, and asking for an end."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from api import background
from api.deps import Caller, PageAsked
from api.errors import Conflict, NotFound
from api.fine_tuning import checks
from api.fine_tuning.memory import check_memory
from api.fine_tuning.order import Order, read_order
from api.fine_tuning.schemas import FineTuningJob
from api.fine_tuning.wire import job_object
from api.wire import ListOf, list_of
from models.db import transaction
from models.queries import evidence, files, jobs
from models.queries.events import add_event
from models.queries.outbox import ring
from models.status import JobStatus

OPENAI_HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")


def create(caller: Caller, body: Mapping[str, Any]) -> FineTuningJob:
    """Everything that can be known to fail is refused here, before the job is queued."""
    order = read_order(body)
    checks.check_model(order)
    checks.check_distinct(order)
    check_memory(order.model, order.spec)
    with transaction(read_only=True) as session:
        rows = {param: _file(session, caller, param, file_id) for param, file_id in order.file_ids().items()}
    warned = checks.check_files(order, rows)
    with transaction() as session:
        for file_id, param in sorted((file_id, param) for param, file_id in order.file_ids().items()):
            if files.lock_file(session, caller.tenant_id, file_id) is None:  # deleted since it was checked
                raise checks.missing_file(param, file_id)
        job_id = _insert(session, caller, order)
        add_event(session, job_id, f"Created fine-tuning job: {job_id}")
        for warning in warned:
            add_event(session, job_id, warning.message, level="warn", data=warning.data)
        ring(session, job_id)
        row = must_have(session, caller, job_id)
    background.ring_doorbells()
    return job_object(row, [])


def listing(caller: Caller, metadata: Mapping[str, str], asked: PageAsked) -> ListOf[FineTuningJob]:
    with transaction(read_only=True) as session:
        page = jobs.page_jobs(session, caller.tenant_id, metadata=metadata, **asked._asdict())
        results: dict[str, list[str]] = {row["id"]: [] for row in page.rows}
        for found in evidence.artifact_paths(session, list(results)):
            results[found["job_id"]].append(found["path"])
    return list_of([job_object(row, results[row["id"]]) for row in page.rows], page.has_more)


def retrieve(caller: Caller, job_id: str) -> FineTuningJob:
    with transaction(read_only=True) as session:
        return _read(session, caller, job_id)


def cancel(caller: Caller, job_id: str) -> FineTuningJob:
    """Idempotent: asked twice, or of a cancelled job, it changes nothing. Raises Conflict for a job that ended otherwise."""
    with transaction() as session:
        status = jobs.lock_status(session, caller.tenant_id, job_id)
        if status in (JobStatus.succeeded, JobStatus.failed):
            raise Conflict(
                f"The job has {status} and cannot be cancelled.",
                code="invalid_state",
                param="status",
                hint="Nothing is left to stop.",
            )
        if status in (JobStatus.queued, JobStatus.validating_files):
            jobs.cancel_waiting(session, job_id)
            add_event(session, job_id, "The job was cancelled")
        elif status == JobStatus.running and jobs.request_cancel(session, job_id):
            add_event(session, job_id, "Cancellation was requested")
        return _read(session, caller, job_id)


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
    return job_object(row, [found["path"] for found in evidence.artifact_paths(session, [job_id])] if finished else [])


def _file(session: Session, caller: Caller, param: str, file_id: str) -> RowMapping:
    row = files.get_file(session, caller.tenant_id, file_id)
    if row is None:
        raise checks.missing_file(param, file_id)
    return row


def _insert(session: Session, caller: Caller, order: Order) -> str:
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
    )

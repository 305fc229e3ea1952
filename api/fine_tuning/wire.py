"""Rows as the wire shows them."""

from collections.abc import Sequence

from sqlalchemy import RowMapping

from api.files.results import result_id
from api.fine_tuning.schemas import (
    Artifact,
    Checkpoint,
    Event,
    FineTuningJob,
    ForkOf,
    JobError,
    Progress,
    Queue,
    Round,
    Sample,
    Stage,
)
from models.status import JobStatus

EVENT_PREFIX = "ftevent-"
PAUSING = "pausing"  # the wire's word for a running job that is being put away


def _seconds(at: float | None) -> int | None:
    return None if at is None else int(at)


def job_object(row: RowMapping, result_paths: Sequence[str]) -> FineTuningJob:
    spec, job_id = row["spec"], row["id"]
    progress = Progress.model_validate({"rounds": spec["rounds"], **row["progress"]})
    if row["status"] == JobStatus.succeeded:
        progress = progress.model_copy(update={"percent": 100.0})
    trained = spec["hyperparameters"]
    return FineTuningJob(
        id=job_id,
        created_at=int(row["created_at"]),
        started_at=_seconds(row["started_at"]),
        finished_at=_seconds(row["finished_at"]),
        model=row["base_lm"],
        fine_tuned_model=row["adapter_name"],
        status=PAUSING if row["status"] == JobStatus.running and row["pause_requested_at"] is not None else row["status"],
        hyperparameters={name: trained[name] for name in ("n_epochs", "batch_size", "learning_rate_multiplier")},
        training_file=row["training_file"],
        validation_file=row["validation_file"],
        unlabeled_file=row["unlabeled_file"],
        test_file=row["test_file"],
        from_job=row["from_job"],
        fork=ForkOf.model_validate(row["fork"]) if row["fork"] else None,
        result_files=[result_id(job_id, path) for path in result_paths],
        trained_tokens=row["trained_tokens"],
        seed=spec["seed"],
        suffix=row["suffix"],
        error=JobError.model_validate(row["error"]) if row["error"] else None,
        method=row["method"],
        metadata=row["job_metadata"],
        spec=spec,
        phase=progress.phase,
        progress=progress,
        queue=None if row["queue_position"] is None else Queue(position=row["queue_position"]),
        cancel_requested_at=_seconds(row["cancel_requested_at"]),
        pause_requested_at=_seconds(row["pause_requested_at"]),
    )


def event(row: RowMapping) -> Event:
    return Event(
        id=f"{EVENT_PREFIX}{row['id']}",
        created_at=int(row["created_at"]),
        level=row["level"],
        message=row["message"],
        type=row["type"],
        data=row["data"],
    )


def checkpoint(row: RowMapping) -> Checkpoint:
    return Checkpoint(
        id=row["id"],
        created_at=int(row["created_at"]),
        fine_tuned_model_checkpoint=row["adapter_name"],
        fine_tuning_job_id=row["job_id"],
        step_number=row["step_number"],
        metrics=row["metrics"],
    )


def round_object(row: RowMapping) -> Round:
    return Round.model_validate({**row["summary"], "number": row["number"], "created_at": int(row["created_at"])})


def stage(row: RowMapping, progress: Progress) -> Stage:
    """Steps are known of the stage that runs now, and of no other."""
    runs = row["status"] == "open" and progress.stage == row["name"]
    return Stage(
        name=row["name"],
        status=row["status"],
        chunks=row["chunks"],
        chunks_done=row["chunks_done"],
        items=row["items"],
        step=progress.step if runs else None,
        total=progress.total if runs else None,
        opened_at=int(row["opened_at"]),
        done_at=_seconds(row["done_at"]),
        seconds=row["seconds"],
        taken_from=row["taken_from"],
    )


def sample(row: RowMapping) -> Sample:
    shown = {name: row[name] for name in Sample.model_fields if name in row}
    return Sample.model_validate({**shown, "id": f"{row['round']}:{row['query_id']}"})


def artifact(row: RowMapping) -> Artifact:
    return Artifact(
        path=row["path"],
        bytes=row["bytes"],
        sha256=row["sha256"],
        created_at=int(row["created_at"]),
        file_id=result_id(row["job_id"], row["path"]),
    )

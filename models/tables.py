"""All tables, in the order data flows through them. One schema for PostgreSQL and SQLite (migrations/ is its history).

Times are float epoch seconds taken from the database's clock at writing (queries/clock.py), so that leases on different
machines compare. A row is a tenant's by its tenant_id, or its job's: every query says so, and in PostgreSQL row-level
security says so again (migrations/versions/).
"""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")  # None is SQL NULL, never JSON null
Serial = BigInteger().with_variant(Integer(), "sqlite")  # SQLite autoincrements INTEGER primary keys only


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: Json, list[Any]: Json, int: BigInteger, float: Float}


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[float]


class ApiKey(Base):
    """A key of a tenant's. Of its secret only the SHA-256 is here (models/keys.py)."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]]  # of models.keys.SCOPES
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]  # to ten minutes: a read must not write
    window_at: Mapped[float | None]  # when the minute began whose requests are counted (queries/quotas.py)
    window_used: Mapped[int] = mapped_column(Integer, default=0)


class File(Base):
    """An upload. Bytes live in the blob store under their sha256; two uploads of the same bytes share one blob."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # file-…, time-ordered
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    created_at: Mapped[float]
    filename: Mapped[str] = mapped_column(String(255))  # shown only, never a path
    purpose: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))  # FileStatus
    status_details: Mapped[str | None] = mapped_column(Text)
    options: Mapped[dict[str, Any]]  # what the uploader said: format, mapping
    validation: Mapped[dict[str, Any] | None]  # the report of worker.semisup.ingest.validate, once there is one
    expires_at: Mapped[float | None]  # from the uploader's expires_after
    __table_args__ = (
        CheckConstraint("status in ('uploaded','processed','error','deleted')", name="file_status"),
        UniqueConstraint("tenant_id", "id", name="one_file_of_a_tenant"),
    )


class Upload(Base):
    """A file on its way in parts, each of which is a blob in the upload's own room of the store until the file is made."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # upload_…, time-ordered
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    created_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)
    status: Mapped[str] = mapped_column(String(16))  # UploadStatus
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int]  # as announced: the parts of the file must have as many
    options: Mapped[dict[str, Any]]
    expires_after: Mapped[float | None]  # of the file, seconds
    file_id: Mapped[str | None] = mapped_column(String(64))
    __table_args__ = (
        CheckConstraint("status in ('pending','completed','cancelled','expired')", name="upload_status"),
        CheckConstraint("(status = 'completed') = (file_id is not null)", name="completed_is_a_file"),
        Index("uploads_of_a_tenant", "tenant_id", "status"),
        UniqueConstraint("tenant_id", "id", name="one_upload_of_a_tenant"),
        ForeignKeyConstraint(["tenant_id", "file_id"], ["files.tenant_id", "files.id"]),
    )


class UploadPart(Base):
    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # part_…
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    upload_id: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[float]
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "upload_id"], ["uploads.tenant_id", "uploads.id"]),)


class UploadSlot(Base):
    """A body of a key's that is arriving. Renewed meanwhile: a process that dies gives its slots back by not renewing them."""

    __tablename__ = "upload_slots"
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    until: Mapped[float]
    __table_args__ = ({"sqlite_autoincrement": True},)  # an id freed by one that forgot to renew is nobody else's


class Job(Base):
    """A fine-tuning job. Its row is the truth: a Celery message only carries its id."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # ftjob-…, time-ordered
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    base_lm: Mapped[str] = mapped_column(String(255))
    suffix: Mapped[str | None] = mapped_column(String(64))
    adapter_name: Mapped[str | None] = mapped_column(String(255))  # ft:…, set when it succeeded
    adapter_hidden_at: Mapped[float | None]  # DELETE /v1/models/ft:…: no longer listed; the job keeps its results
    method: Mapped[dict[str, Any]]  # the wire's method object, as accepted
    spec: Mapped[dict[str, Any]]  # JobSpec, complete
    job_metadata: Mapped[dict[str, Any]]
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    unlabeled_file: Mapped[str | None] = mapped_column(String(64))
    test_file: Mapped[str | None] = mapped_column(String(64))
    from_job: Mapped[str | None] = mapped_column(String(64))  # whose adapter this one goes on from
    fork: Mapped[dict[str, Any] | None]  # {job, round, taken_over, run_again}: whose stages this one uses again, by name
    status: Mapped[str] = mapped_column(String(24))
    error: Mapped[dict[str, Any] | None]  # {code, message, param}
    progress: Mapped[dict[str, Any]]  # {phase, round, step, total, percent}
    trained_tokens: Mapped[int | None]
    cancel_requested_at: Mapped[float | None]
    pause_requested_at: Mapped[float | None]
    # the lease: who may write this job's results. A token is never reused, so a stale worker writes 0 rows.
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float | None]
    worker: Mapped[str | None] = mapped_column(String(255))
    attempt: Mapped[int] = mapped_column(Integer, default=0)  # attempts since the last progress
    next_attempt_at: Mapped[float | None]
    __table_args__ = (
        CheckConstraint(
            "status in ('validating_files','queued','running','paused','succeeded','failed','cancelled')", name="job_status"
        ),
        CheckConstraint("status <> 'running' or lease_until is not null", name="running_has_lease"),
        Index("jobs_open", "status", "created_at"),
        Index("jobs_served", "tenant_id", "lease_token"),
        UniqueConstraint("tenant_id", "id", name="one_job_of_a_tenant"),
        # A job cannot so much as name what is another tenant's, whoever forgot to look.
        *(
            ForeignKeyConstraint(["tenant_id", column], ["files.tenant_id", "files.id"])
            for column in ("training_file", "validation_file", "unlabeled_file", "test_file")
        ),
        ForeignKeyConstraint(["tenant_id", "from_job"], ["jobs.tenant_id", "jobs.id"]),
    )


class Stage(Base):
    """One keep(...) or keep.map(...) line of a job. `manifest` names its files once it is done; it is then never changed."""

    __tablename__ = "stages"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)  # e.g. round-1/propagate
    position: Mapped[int] = mapped_column(Integer)  # order of first opening
    status: Mapped[str] = mapped_column(String(8))  # open, done
    chunks: Mapped[int | None] = mapped_column(Integer)  # of a mapped stage
    items: Mapped[int | None] = mapped_column(Integer)
    opened_at: Mapped[float]
    done_at: Mapped[float | None]
    seconds: Mapped[float | None]
    token: Mapped[int | None]  # the lease that wrote it
    taken_from: Mapped[str | None] = mapped_column(String(64))  # the job that computed it, when this one did not
    manifest: Mapped[dict[str, Any] | None]
    __table_args__ = (CheckConstraint("status in ('open','done')", name="stage_status"),)


class Chunk(Base):
    """A piece of a mapped stage: the checkpoint, the progress tick, and what another machine can take."""

    __tablename__ = "chunks"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(128), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    status: Mapped[str] = mapped_column(String(8))  # open, leased, done
    lease_token: Mapped[int | None]
    lease_until: Mapped[float | None]
    worker: Mapped[str | None] = mapped_column(String(255))
    seconds: Mapped[float | None]
    runs: Mapped[int] = mapped_column(Integer, default=0)  # how often it was computed to the end
    manifest: Mapped[dict[str, Any] | None]
    __table_args__ = (CheckConstraint("status in ('open','leased','done')", name="chunk_status"),)


class TrainingState(Base):
    """A checkpoint inside a training stage: what another attempt goes on from (worker/semisup/stages/checkpoint.py).

    Only that it is here makes it count. `dropped`: nobody reads it any more, and its blobs are about to go.
    """

    __tablename__ = "training_states"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(String(128), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    token: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # the lease that wrote it
    created_at: Mapped[float]
    dropped: Mapped[bool]
    manifest: Mapped[dict[str, Any]]
    __table_args__ = (Index("training_states_dropped", "dropped"),)


class Round(Base):
    """A finished round's numbers, as the rounds API shows them."""

    __tablename__ = "rounds"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    created_at: Mapped[float]
    summary: Mapped[dict[str, Any]]


class SampleRow(Base):
    """One unlabeled row in one round: prompt, votes, neighbours, confidence, verdict and reason (semisup.data.Sample)."""

    __tablename__ = "samples"
    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    round: Mapped[int] = mapped_column(Integer, primary_key=True)
    query_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    position: Mapped[int] = mapped_column(Integer)  # upload order
    verdict: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(64))
    pseudo_label: Mapped[str | None] = mapped_column(Text)
    pseudo_response: Mapped[str] = mapped_column(Text)
    mean_nll: Mapped[float | None]  # null where nothing was generated that could be scored
    agreement: Mapped[float]
    resolved_by: Mapped[str] = mapped_column(String(16))
    prompt: Mapped[str] = mapped_column(Text)
    votes: Mapped[list[Any]]
    neighbours: Mapped[list[Any]]
    justification: Mapped[dict[str, Any] | None]
    __table_args__ = (
        Index("samples_listing", "job_id", "round", "verdict", "position"),
        ForeignKeyConstraint(["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"]),
    )


class Artifact(Base):
    """A file of the finished job, by its path inside the result folder."""

    __tablename__ = "artifacts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)  # adapter/adapter_model.safetensors, report.md, …
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]


class Checkpoint(Base):
    """An adapter a round ended with, as OpenAI's checkpoints show it."""

    __tablename__ = "checkpoints"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # ftckpt_…
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[float]
    step_number: Mapped[int]
    adapter_name: Mapped[str] = mapped_column(String(255))
    metrics: Mapped[dict[str, Any]]
    __table_args__ = (UniqueConstraint("job_id", "step_number", name="one_checkpoint_a_step"),)


class Event(Base):
    """Append-only: everything that happened to a job, in order of id."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[float]
    level: Mapped[str] = mapped_column(String(8))  # info, warn, error
    type: Mapped[str] = mapped_column(String(16))  # message, metrics
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]


class Outbox(Base):
    """Doorbells to ring, written in the transaction that made them necessary."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float]
    rung_at: Mapped[float | None]
    __table_args__ = (Index("outbox_waiting", "rung_at", "id"),)


class Idempotency(Base):
    """A request that may come twice, under its Idempotency-Key or as a client's own retry, and what it was answered."""

    __tablename__ = "idempotency"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(320), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # sha256 of what was asked
    retried: Mapped[bool]  # made by a request that called itself a retry
    created_at: Mapped[float] = mapped_column(index=True)
    response: Mapped[str] = mapped_column(Text)  # the body of the answer, byte for byte


class Fence(Base):
    """Hands out lease tokens: each insert's id is larger than every earlier one, on both databases."""

    __tablename__ = "fence"
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    __table_args__ = ({"sqlite_autoincrement": True},)


class Chore(Base):
    """What one process does for all now and then, and when it was last begun."""

    __tablename__ = "chores"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    begun_at: Mapped[float]

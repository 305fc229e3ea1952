"""The first tables, and the tenant everything belongs to until there are more."""

import time

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up INTEGER primary keys only

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fence",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "outbox",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("rung_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("outbox_waiting", "outbox", ["rung_at", "id"], unique=False)
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.Column("last_used_at", sa.Float(), nullable=True),
        sa.Column("window_at", sa.Float(), nullable=True),
        sa.Column("window_used", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant_id"], unique=False)
    op.create_table(
        "files",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("purpose", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_details", sa.Text(), nullable=True),
        sa.Column("options", JSON, nullable=False),
        sa.Column("validation", JSON, nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.CheckConstraint("status in ('uploaded','processed','error','deleted')", name="file_status"),
        sa.UniqueConstraint("tenant_id", "id", name="one_file_of_a_tenant"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_files_tenant_id", "files", ["tenant_id"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=320), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("retried", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.PrimaryKeyConstraint("tenant_id", "key"),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("base_lm", sa.String(length=255), nullable=False),
        sa.Column("suffix", sa.String(length=64), nullable=True),
        sa.Column("adapter_name", sa.String(length=255), nullable=True),
        sa.Column("adapter_hidden_at", sa.Float(), nullable=True),
        sa.Column("method", JSON, nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("job_metadata", JSON, nullable=False),
        sa.Column("training_file", sa.String(length=64), nullable=False),
        sa.Column("validation_file", sa.String(length=64), nullable=True),
        sa.Column("unlabeled_file", sa.String(length=64), nullable=True),
        sa.Column("test_file", sa.String(length=64), nullable=True),
        sa.Column("from_job", sa.String(length=64), nullable=True),
        sa.Column("fork", JSON, nullable=True),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested_at", sa.Float(), nullable=True),
        sa.Column("pause_requested_at", sa.Float(), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float(), nullable=True),
        sa.CheckConstraint("status <> 'running' or lease_until is not null", name="running_has_lease"),
        sa.CheckConstraint(
            "status in ('validating_files','queued','running','paused','succeeded','failed','cancelled')", name="job_status"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.ForeignKeyConstraint(["tenant_id", "from_job"], ["jobs.tenant_id", "jobs.id"]),
        sa.ForeignKeyConstraint(["tenant_id", "test_file"], ["files.tenant_id", "files.id"]),
        sa.ForeignKeyConstraint(["tenant_id", "training_file"], ["files.tenant_id", "files.id"]),
        sa.ForeignKeyConstraint(["tenant_id", "unlabeled_file"], ["files.tenant_id", "files.id"]),
        sa.ForeignKeyConstraint(["tenant_id", "validation_file"], ["files.tenant_id", "files.id"]),
        sa.UniqueConstraint("tenant_id", "id", name="one_job_of_a_tenant"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("jobs_served", "jobs", ["tenant_id", "lease_token"], unique=False)
    op.create_index("jobs_open", "jobs", ["status", "created_at"], unique=False)
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "path"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("step_number", sa.BigInteger(), nullable=False),
        sa.Column("adapter_name", sa.String(length=255), nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "step_number", name="one_checkpoint_a_step"),
    )
    op.create_index("ix_checkpoints_job_id", "checkpoints", ["job_id"], unique=False)
    op.create_table(
        "chunks",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=128), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("manifest", JSON, nullable=True),
        sa.CheckConstraint("status in ('open','leased','done')", name="chunk_status"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "stage", "number"),
    )
    op.create_table(
        "events",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", JSON, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_events_job_id", "events", ["job_id"], unique=False)
    op.create_table(
        "rounds",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("summary", JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "number"),
    )
    op.create_table(
        "samples",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("query_id", sa.String(length=255), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("pseudo_label", sa.Text(), nullable=True),
        sa.Column("pseudo_response", sa.Text(), nullable=False),
        sa.Column("mean_nll", sa.Float(), nullable=True),
        sa.Column("agreement", sa.Float(), nullable=False),
        sa.Column("resolved_by", sa.String(length=16), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("votes", JSON, nullable=False),
        sa.Column("neighbours", JSON, nullable=False),
        sa.Column("justification", JSON, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.ForeignKeyConstraint(["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "round", "query_id"),
    )
    op.create_index("samples_listing", "samples", ["job_id", "round", "verdict", "position"], unique=False)
    op.create_table(
        "stages",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=True),
        sa.Column("items", sa.Integer(), nullable=True),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("done_at", sa.Float(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=True),
        sa.Column("taken_from", sa.String(length=64), nullable=True),
        sa.Column("manifest", JSON, nullable=True),
        sa.CheckConstraint("status in ('open','done')", name="stage_status"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "name"),
    )
    op.execute(sa.text("insert into tenants (id, created_at) values ('default', :now)").bindparams(now=time.time()))
    op.create_table(
        "training_states",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=128), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("token", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("dropped", sa.Boolean(), nullable=False),
        sa.Column("manifest", JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "stage", "step", "token"),
    )
    op.create_index("training_states_dropped", "training_states", ["dropped"], unique=False)
    _wall()


# Row-level security: a transaction sees the rows of the tenant in `semift.tenant`, of all with '*', of none without
# (models/db.py). FORCE binds the owner of the tables too; only a superuser, or a role with BYPASSRLS, looks over the wall.
ONE_TENANT = "(select current_setting('semift.tenant', true))"  # in a sub-select it is read once a statement, not once a row
OF_A_TENANT = {"tenants": "id", **dict.fromkeys(("api_keys", "files", "idempotency", "jobs", "samples"), "tenant_id")}
OF_A_JOB = ("artifacts", "checkpoints", "chunks", "events", "outbox", "rounds", "stages", "training_states")


def _wall() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    seen = {table: f"{ONE_TENANT} in ('*', {column})" for table, column in OF_A_TENANT.items()}
    for table in OF_A_JOB:  # the job is looked up under its own policy
        seen[table] = f"{ONE_TENANT} = '*' or exists (select from jobs where jobs.id = {table}.job_id)"
    for table, rows in seen.items():
        op.execute(f"alter table {table} enable row level security")
        op.execute(f"alter table {table} force row level security")
        op.execute(f"create policy one_tenant on {table} using ({rows})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in (*OF_A_TENANT, *OF_A_JOB):
            op.execute(f"drop policy one_tenant on {table}")
    op.drop_index("training_states_dropped", table_name="training_states")
    op.drop_table("training_states")
    op.drop_table("stages")
    op.drop_index("samples_listing", table_name="samples")
    op.drop_table("samples")
    op.drop_table("rounds")
    op.drop_index("ix_events_job_id", table_name="events")
    op.drop_table("events")
    op.drop_table("chunks")
    op.drop_index("ix_checkpoints_job_id", table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_table("artifacts")
    op.drop_index("jobs_open", table_name="jobs")
    op.drop_index("jobs_served", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_idempotency_created_at", table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_index("ix_files_tenant_id", table_name="files")
    op.drop_table("files")
    op.drop_index("ix_api_keys_tenant_id", table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("tenants")
    op.drop_index("outbox_waiting", table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("fence")

"""Every environment variable, once. Nothing else in the house reads the environment (tests/test_house.py).

Three URLs move the same code from one machine to many: SEMIFT_DATABASE_URL, SEMIFT_BROKER_URL, SEMIFT_STORE_URL.
"""

import os
import re
from functools import cached_property, lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENGINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
REVISION = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
BUNDLED = re.compile(r"bundled:[1-6](\+reader)?")  # worker/semisup/bundled.py, which this floor may not import


class EngineSettings(BaseModel):
    """A server that speaks OpenAI's chat completions. The same fields, explained: worker/semisup/engines/endpoint.py."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str = Field(pattern=r"^https?://[^@?#]+$", description="What the openai client calls base_url: it ends in /v1.")
    model: str = Field(min_length=1)
    api_key_env: str | None = Field(None, description="The variable of the worker's environment that holds the key.")
    timeout_s: float = Field(120.0, gt=0, le=3600)
    max_concurrency: int = Field(8, ge=1, le=512)
    retries: int = Field(10, ge=0, le=100)
    patience_s: float = Field(300.0, ge=0, le=86400)
    logprobs: bool = True


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="SEMIFT_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )  # a value that is wrong may still be a secret

    data_dir: Path = Field(
        Path(".semift"), description="Embedded default: database, blobs, broker folders and scratch lie here."
    )
    database_url: str = Field("", description="postgresql+psycopg://… or sqlite:///…; empty: SQLite in data_dir.")
    broker_url: str = Field("", description="redis://… or filesystem://; empty: Celery's filesystem transport in data_dir.")
    broker_prefix: str = Field("semift:", description="Prefix of every key in Redis.")
    store_url: str = Field("", description="file:///… or s3://bucket/prefix; empty: a folder in data_dir.")

    # PostgreSQL alone; SQLite's one bound is how long a writer waits for another (models/db.py).
    database_silence_seconds: float = Field(
        15.0, ge=3, description="A connection whose other end is gone without a word is given up after this long."
    )
    request_lock_seconds: float = Field(
        4.0, gt=0, description="How long a request waits for rows or tables that others hold; then it is answered 503."
    )
    request_statement_seconds: float = Field(
        15.0, gt=0, description="How long one statement of a request may take; then it is answered 503."
    )

    host: str = "127.0.0.1"
    port: int = Field(8642, ge=0, le=65535)
    key_cache_seconds: float = Field(
        5.0, ge=0, le=300, description="How long an API process goes on with a key it has looked up: a revocation's delay."
    )

    base_lms: dict[str, str] = Field(
        {"semift-small": "bundled:3"},
        description="What a job may name as its model: id -> local folder, or bundled:N (N of the bundled small "
        "LM's six layers), or bundled:N+reader (with a layer that reads the whole prompt, and all words).",
    )
    base_lm_revisions: dict[str, str] = Field(
        {},
        description="What an LM of the list must be: id -> sha256 over its *.safetensors in order of their names (reports have "
        "it as base_sha256), or the commit of a hub's snapshot. A worker that has another refuses its jobs.",
    )
    engines: dict[str, EngineSettings] = Field(
        {}, description='What a collaborator may name: {"big": {"url": "http://…/v1", "model": "…", "api_key_env": "BIG_KEY"}}.'
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    device_memory_bytes: int = Field(
        0, ge=0, description="Of the smallest worker; jobs that cannot fit are refused. 0: no check."
    )
    threads: int = Field(0, ge=0, description="CPU threads of a runner; 0: all cores. Other counts give other last bits.")

    log_error_text: bool = Field(
        False, description="Log what exceptions say, too; it may quote rows or parameters. Type and place are always logged."
    )

    max_file_bytes: int = Field(1 << 30, ge=1, description="Largest single upload.")
    max_part_bytes: int = Field(64 << 20, ge=1, description="Largest part of a file that is uploaded in parts.")
    max_rows: int = Field(1_000_000, ge=0, description="Rows of one file; 0: no limit.")
    upload_seconds: float = Field(3600.0, gt=0, description="In which an upload in parts must be completed.")
    orphan_seconds: float = Field(
        86400.0, ge=0, description="Age at which a blob that no row names is deleted; 0: never. One store, one database."
    )
    # Quotas, each for one tenant; 0: none. And the rate of one key, over all API processes together.
    tenant_open_jobs: int = Field(1000, ge=0, description="Jobs that have not ended.")
    tenant_running_jobs: int = Field(0, ge=0, description="Jobs that run at once, when more workers are free.")
    tenant_stored_bytes: int = Field(100 << 30, ge=0, description="Uploads that were not deleted.")
    tenant_keys: int = Field(100, ge=1, description="API keys that open anything.")
    requests_per_minute: int = Field(3000, ge=0, description="Of one key; 0: no limit.")
    uploads_at_once: int = Field(16, ge=0, description="Uploads of one key that are under way; 0: no limit.")
    max_body_bytes: int = Field(256 << 10, ge=1024, description="Largest JSON request body.")
    head_seconds: float = Field(10.0, gt=0, description="From a connection's first byte to the end of a request's headers.")
    body_seconds: float = Field(30.0, gt=0, description="In these many seconds of waiting for a body, body_bytes must arrive.")
    body_bytes: int = Field(480 << 10, ge=1, description="With 30 s: a client may not be slower than 16 KiB/s.")
    inline_validation_bytes: int = Field(4 << 20, ge=0, description="Files up to this are validated before the upload answers.")

    @field_validator("engines")
    @classmethod
    def _named(cls, engines: dict[str, EngineSettings]) -> dict[str, EngineSettings]:
        if wrong := [name for name in engines if not ENGINE_NAME.fullmatch(name)]:
            raise ValueError(f"an engine's name is 1 to 64 letters, digits, '.', '_' or '-'; got {wrong[0][:80]!r}")
        return engines

    @field_validator("base_lms")
    @classmethod
    def _known(cls, lms: dict[str, str]) -> dict[str, str]:
        wrong = [place for place in lms.values() if place.startswith("bundled:") and not BUNDLED.fullmatch(place)]
        if wrong:
            raise ValueError(f"the bundled LMs are bundled:1 to bundled:6, and the same with +reader; got {wrong[0][:80]!r}")
        return lms

    @model_validator(mode="after")
    def _pinned(self) -> "Settings":
        for name, revision in self.base_lm_revisions.items():
            if self.base_lms.get(name, "bundled:").startswith("bundled:"):
                raise ValueError(f"base_lm_revisions names {name[:80]!r}, which is no folder of base_lms")
            if not REVISION.fullmatch(revision):
                raise ValueError(f"the revision of {name[:80]!r} must be 64 (sha256) or 40 (commit) lower-case hex digits")
        return self

    # A worker that misses its lease loses the job. All periods below scale together: tests shorten lease_seconds alone.
    lease_seconds: float = Field(30.0, gt=0)
    max_attempts: int = Field(3, ge=1, description="Attempts without progress before a job fails.")
    stop_grace_seconds: float = Field(
        20.0, ge=0, description="What a runner gets to finish its step or chunk and leave a checkpoint when it shall stop."
    )

    # A runner that says nothing for this long, by what it said it was doing, is killed: its job is tried again.
    stall_loading_seconds: float = Field(1800.0, gt=0, description="Loading a model, reading data, anything between stages.")
    stall_step_seconds: float = Field(600.0, gt=0, description="One training step, and saving a checkpoint.")
    stall_batch_seconds: float = Field(600.0, gt=0, description="One batch of generation or embedding.")

    stall_serving_seconds: float = Field(
        1800.0, gt=0, description="One turn of the worker itself: fetching a job's files, storing a stage's. Then its job goes."
    )

    # Training goes on from its newest checkpoint. They never cost more than 5 % of the time: a slow store gets fewer.
    checkpoint_seconds: float = Field(60.0, ge=0, description="Between checkpoints inside a training; 0: not by time.")
    checkpoint_steps: int = Field(0, ge=0, description="Steps between checkpoints; 0: by time alone.")

    @cached_property
    def heartbeat_seconds(self) -> float:
        return min(self.lease_seconds / 6, 2.0)  # cancel is read with the heartbeat: at most 2 s late

    @cached_property
    def stop_seconds(self) -> float:
        return min(self.stop_grace_seconds, self.lease_seconds * 2 / 3)  # tests shorten it with the rest

    def stall_seconds(self, doing: str) -> float:
        """`doing`: loading, step or batch."""
        return {"step": self.stall_step_seconds, "batch": self.stall_batch_seconds}.get(doing, self.stall_loading_seconds)

    @cached_property
    def sweep_seconds(self) -> float:
        return min(self.lease_seconds / 3, 10.0)

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve()}/semift.db"

    @property
    def broker(self) -> str:
        return self.broker_url or "filesystem://"

    @property
    def store(self) -> str:
        return self.store_url or self.data_dir.resolve().joinpath("blobs").as_uri()


def engine_key(engine: EngineSettings) -> str | None:
    """Read at use and kept nowhere. Raises KeyError with the name of a variable that is not set."""
    return os.environ[engine.api_key_env] if engine.api_key_env else None


@lru_cache
def settings() -> Settings:
    return Settings()


CRASH_AT = "SEMIFT_CRASH_AT"


def crash_at() -> str:
    """Where a test wants a process to die (models/crash.py); empty outside of tests."""
    return os.environ.get(CRASH_AT, "")


# What a runner may see of its worker's environment: where programs, libraries and the device are. No URL, no key.
RUNNER_VARIABLES = (CRASH_AT, "PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT")
RUNNER_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_")


def runner_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in RUNNER_VARIABLES or name.startswith(RUNNER_PREFIXES)}


def override(**values: object) -> None:
    """Sets these for this process and the ones it starts: what was given on a command line wins over the environment."""
    os.environ.update({f"SEMIFT_{name.upper()}": str(value) for name, value in values.items()})
    settings.cache_clear()

"""Every environment variable, once. Nothing else in the house reads the environment (tests/test_house.py).

Three URLs move the same code from one machine to many: SEMIFT_DATABASE_URL, SEMIFT_BROKER_URL, SEMIFT_STORE_URL.
"""

import os
from functools import cached_property, lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SEMIFT_", env_file=".env", extra="ignore", frozen=True)

    data_dir: Path = Field(
        Path(".semift"), description="Embedded default: database, blobs, broker folders and scratch lie here."
    )
    database_url: str = Field("", description="postgresql+psycopg://… or sqlite:///…; empty: SQLite in data_dir.")
    broker_url: str = Field("", description="redis://… or filesystem://; empty: Celery's filesystem transport in data_dir.")
    broker_prefix: str = Field("semift:", description="Prefix of every key in Redis.")
    store_url: str = Field("", description="file:///… or s3://bucket/prefix; empty: a folder in data_dir.")

    host: str = "127.0.0.1"
    port: int = Field(8642, ge=0, le=65535)
    allow_remote: bool = Field(False, description="Let `api.up` listen beyond this machine; nobody is asked for a key.")

    base_lms: dict[str, str] = Field(
        {"semift-small": "bundled:3"},
        description="What a job may name as its model: id -> local folder, or bundled:N (N layers of the bundled small LM).",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    device_memory_bytes: int = Field(
        0, ge=0, description="Of the smallest worker; jobs that cannot fit are refused. 0: no check."
    )
    threads: int = Field(0, ge=0, description="CPU threads of a runner; 0: all cores. Other counts give other last bits.")

    max_file_bytes: int = Field(1 << 30, ge=1, description="Largest single upload.")
    max_body_bytes: int = Field(256 << 10, ge=1024, description="Largest JSON request body.")
    inline_validation_bytes: int = Field(4 << 20, ge=0, description="Files up to this are validated before the upload answers.")

    # A worker that misses its lease loses the job. All periods below scale together: tests shorten lease_seconds alone.
    lease_seconds: float = Field(30.0, gt=0)
    max_attempts: int = Field(3, ge=1, description="Attempts without progress before a job fails.")
    kill_grace_seconds: float = Field(5.0, ge=0, description="Between SIGTERM and SIGKILL of a runner.")

    @cached_property
    def heartbeat_seconds(self) -> float:
        return min(self.lease_seconds / 6, 2.0)  # cancel is read with the heartbeat: at most 2 s late

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


@lru_cache
def settings() -> Settings:
    return Settings()


# What a runner may see of its worker's environment: where programs, libraries and the device are. No URL, no key.
RUNNER_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT")
RUNNER_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_")


def runner_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in RUNNER_VARIABLES or name.startswith(RUNNER_PREFIXES)}


def override(**values: object) -> None:
    """Sets these for this process and the ones it starts: what was given on a command line wins over the environment."""
    os.environ.update({f"SEMIFT_{name.upper()}": str(value) for name, value in values.items()})
    settings.cache_clear()

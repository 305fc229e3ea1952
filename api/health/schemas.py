"""What probes and people ask a server first."""

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Check(BaseModel):
    name: str
    ok: bool
    required: bool
    milliseconds: float
    problem: str | None = None


class Readiness(BaseModel):
    """`degraded`: everything needed is there, but the broker is not; jobs are accepted, and start when workers look."""

    status: Literal["ready", "degraded", "not_ready"]
    checks: list[Check]


class Version(BaseModel):
    name: Literal["semift"] = "semift"
    version: str
    openai_version: str
    python: str

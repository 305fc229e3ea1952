"""The server's objects as they come: plain dicts, typed. Keys beyond OpenAI's are Semift's own; unknown keys pass through."""

from typing import Any, Literal, TypedDict

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
SampleOrder = Literal["position", "mean_nll", "-mean_nll"]


class Contents(TypedDict):
    format: str | None
    rows: int
    labeled: int
    unlabeled: int


class File(TypedDict):
    id: str
    bytes: int
    filename: str
    purpose: str
    status: str  # uploaded (being read), processed, error
    status_details: str | None
    contents: Contents | None


class Finding(TypedDict, total=False):
    code: str
    message: str
    severity: str
    line: int | None
    lines: list[int]
    path: str | None
    got: str | None
    fix: str | None
    count: int | None


class Validation(TypedDict, total=False):
    status: str  # pending, ok, failed
    format: str | None
    layout: str | None
    columns: list[str]
    mapping: dict[str, str | None]
    rows: int
    labeled: int
    unlabeled: int
    errors: list[Finding]
    error_counts: dict[str, int]
    warnings: list[Finding]
    stats: dict[str, Any]
    sha256: str


class Progress(TypedDict):
    phase: str | None
    stage: str | None
    step: int
    total: int
    percent: float
    round: int | None  # none in stages that belong to no round
    rounds: int


class Job(TypedDict):
    id: str
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    status: str
    phase: str | None
    progress: Progress
    error: dict[str, Any] | None
    training_file: str
    unlabeled_file: str | None
    from_job: str | None
    fork: dict[str, Any] | None
    test_file: str | None


class Stage(TypedDict):
    name: str
    status: str  # open, done
    chunks: int | None
    chunks_done: int
    items: int | None
    step: int | None
    total: int | None
    seconds: float | None


class Sample(TypedDict):
    id: str
    query_id: str
    round: int
    prompt: str
    pseudo_response: str
    pseudo_label: str | None
    mean_nll: float | None
    agreement: float
    resolved_by: str
    verdict: str
    reason: str
    neighbours: list[Any]
    votes: list[Any]


class Artifact(TypedDict):
    path: str
    bytes: int
    sha256: str


class Model(TypedDict):
    id: str
    owned_by: str
    parent: str | None


class Check(TypedDict):
    name: str
    ok: bool
    required: bool
    milliseconds: float
    problem: str | None


class Readiness(TypedDict):
    status: str  # ready, degraded, not_ready
    checks: list[Check]

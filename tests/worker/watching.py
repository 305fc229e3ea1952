"""What tests see of processes and jobs from outside."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from models.db import transaction
from models.tables import Artifact, Checkpoint, Chunk, Event, Round, SampleRow, Stage


def wait_until(true: Callable[[], Any], seconds: float = 120.0, what: Callable[[], str] = lambda: "") -> Any:
    """The first true value; fails after `seconds`: many more than it takes, for machines that are slow or stand still."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s. {what()}")


def alive(pid: int) -> bool:
    """A zombie counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def lines(spec: dict[str, Any]) -> list[tuple[int, str]]:
    """(pid, what it did), from the log of the fake runner."""
    path = Path(spec["log"])
    written = path.read_text().splitlines() if path.exists() else []
    return [(int(line.partition(" ")[0]), line.partition(" ")[2]) for line in written]


def runners(spec: dict[str, Any]) -> list[int]:
    return [pid for pid, what in lines(spec) if what.startswith("start")]


def did(spec: dict[str, Any], what: str) -> bool:
    return any(line == what for _, line in lines(spec))


def how_often(spec: dict[str, Any], start: str) -> Counter[str]:
    return Counter(what for _, what in lines(spec) if what.startswith(start))


def begun_in_vain(job_id: str, spec: dict[str, Any]) -> int:
    """Chunks begun and not recorded, beyond the one that each interrupted run may leave and those that came too late.

    A machine that stands still for a lease loses what it holds: that a chunk is begun again then is as it should be, and
    each refused output is an event of the job. Anything above 0 was work done twice for no reason.
    """
    begun = sum(how_often(spec, "begin chunk").values())
    late = sum(event.data.get("code") == "chunk_lost" for event in rows(Event, job_id) if event.data)
    return begun - sum(chunk_runs(job_id)) - late - (len(runners(spec)) - 1)


def rows(table: type, job_id: str, *order: Any) -> list[Any]:
    with transaction(read_only=True) as session:
        return list(session.execute(select(table).where(table.job_id == job_id).order_by(*order)).scalars())


def chunk_runs(job_id: str) -> list[int]:
    return [chunk.runs for chunk in rows(Chunk, job_id, Chunk.number)]


def result(job_id: str) -> dict[str, Any]:
    """Everything a job leaves behind that must not depend on what happened to it on the way."""
    return {
        "stages": {stage.name: stage.manifest for stage in rows(Stage, job_id, Stage.position)},
        "chunks": [(chunk.number, chunk.manifest) for chunk in rows(Chunk, job_id, Chunk.number)],
        "samples": [
            (s.query_id, s.verdict, s.pseudo_label, s.mean_nll, s.votes) for s in rows(SampleRow, job_id, SampleRow.position)
        ],
        "artifacts": [(a.path, a.sha256, a.bytes) for a in rows(Artifact, job_id, Artifact.path)],
        "rounds": [(r.number, r.summary) for r in rows(Round, job_id, Round.number)],
        "checkpoints": [(c.step_number, c.metrics) for c in rows(Checkpoint, job_id, Checkpoint.step_number)],
    }


def events(job_id: str) -> list[str]:
    return [event.message for event in rows(Event, job_id, Event.id)]

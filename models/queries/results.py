"""What the API shows of a finished stage, written in the transaction that finishes it. A stage made again replaces its rows.

Payloads are the plain JSON of worker.semisup.data values: this floor does not know the algorithm.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from models.queries.clock import now
from models.queries.events import add_event
from models.tables import Artifact, Checkpoint, Job, Round, SampleRow

ROUND = re.compile(r"round-(\d+)/(.+)")
FOLDER = "files/"  # where keep puts the files of a folder, beside its payload.json


def adapter_name(job: Job, step: int | None = None) -> str:
    """How the wire names an adapter: ft:<base>:<tenant>:<suffix>:<job>, and …:ckpt-step-<n> for a checkpoint of it."""
    name = f"ft:{job.base_lm}:{job.tenant_id}:{job.suffix or ''}:{job.id.removeprefix('ftjob-')}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def record(session: Session, job: Job, stage: str, manifest: Mapping[str, Any], payload: Any) -> None:
    """`payload` is the stage's payload.json; values nobody shows are passed over."""
    write = RECORDERS.get(manifest["type"])
    if write and not manifest.get("many"):
        write(session, job, stage, manifest, storable(payload))


def _selection(session: Session, job: Job, stage: str, _manifest: Mapping[str, Any], payload: Any) -> None:
    number = _round(stage)
    session.execute(delete(SampleRow).where(SampleRow.job_id == job.id, SampleRow.round == number))
    rows = [
        {name: sample[name] for name in SAMPLE_COLUMNS}
        | {"job_id": job.id, "tenant_id": job.tenant_id, "round": number, "position": position}
        for position, sample in enumerate(payload["samples"])
    ]
    if rows:
        session.execute(insert(SampleRow), rows)
    shown = {name: payload[name] for name in ("selected", "rejected", "threshold", "reasons")}
    _summarise(session, job, number, shown | {name: payload.get(name) for name in ("guarantee", "note")})
    if payload.get("note"):
        add_event(session, job.id, payload["note"], level="warn", data={"stage": stage})


def _adapter(session: Session, job: Job, stage: str, _manifest: Mapping[str, Any], payload: Any) -> None:
    ends_a_round = stage.endswith("/evolve") if job.unlabeled_file else stage == "labels-only/early"
    if not ends_a_round:
        return
    number = _round(stage)
    metrics = {"train_loss": payload["final_loss"], "steps": payload["steps"], "trained_tokens": payload["trained_tokens"]}
    _summarise(session, job, number, metrics)
    identity = f"ftckpt_{job.id.removeprefix('ftjob-')}-{number}"
    session.execute(delete(Checkpoint).where(Checkpoint.id == identity))
    before = select(func.coalesce(func.max(Checkpoint.step_number), 0)).where(Checkpoint.job_id == job.id)
    step = session.execute(before).scalar_one() + payload["steps"]
    row = {"id": identity, "job_id": job.id, "created_at": now(), "step_number": step, "adapter_name": adapter_name(job, step)}
    session.execute(insert(Checkpoint).values(row | {"metrics": metrics}))


def _report(session: Session, job: Job, _stage: str, _manifest: Mapping[str, Any], payload: Any) -> None:
    """What can be said of a round only at the end: its shares of classes, how reliable it was, whether it was taken."""
    for made in payload["body"].get("rounds", ()):
        _summarise(session, job, made["round"], {name: value for name, value in made.items() if name != "round"})


def _folder(session: Session, job: Job, _stage: str, manifest: Mapping[str, Any], _payload: Any) -> None:
    session.execute(delete(Artifact).where(Artifact.job_id == job.id))
    rows = [
        {"job_id": job.id, "path": path.removeprefix(FOLDER), "created_at": now(), **entry}
        for path, entry in manifest["files"].items()
        if path.startswith(FOLDER)
    ]
    if rows:
        session.execute(insert(Artifact).values(rows))


Recorder = Callable[[Session, Job, str, Mapping[str, Any], Any], None]
RECORDERS: Mapping[str, Recorder] = {"Selection": _selection, "Adapter": _adapter, "Report": _report, "Folder": _folder}
SAMPLE_COLUMNS = (
    *("query_id", "verdict", "reason", "pseudo_label", "pseudo_response", "mean_nll", "agreement", "resolved_by"),
    *("prompt", "votes", "neighbours", "justification"),
)


def _round(stage: str) -> int:
    found = ROUND.fullmatch(stage)
    return int(found[1]) if found else 1


def _summarise(session: Session, job: Job, number: int, numbers: dict[str, Any]) -> None:
    found = session.get(Round, (job.id, number))
    if found is None:
        session.add(Round(job_id=job.id, number=number, created_at=now(), summary=numbers))
    else:
        found.summary = {**found.summary, **numbers}
    session.flush()


def storable(value: Any) -> Any:
    """PostgreSQL stores no NUL in text; an LM may well generate one. The artefact files keep the original."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, list):
        return [storable(item) for item in value]
    return {key: storable(item) for key, item in value.items()} if isinstance(value, dict) else value

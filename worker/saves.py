"""Checkpoints inside trainings, as the worker keeps them for its runner: every file a blob, and a row that makes them count.

Any machine goes on from there. What nobody needs any more is dropped in the database first and discarded afterwards; what a
crash leaves between the two, the housekeeper discards.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models.blobs import BlobError, blobs
from models.crash import crash_point
from models.db import transaction
from models.queries import training_states
from models.queries.events import add_event
from models.queries.leases import Lease

Message = Mapping[str, Any]
Answer = dict[str, Any]


class Saves:
    """`store` puts the files that a message names into the blob store (desk.py)."""

    def __init__(self, lease: Lease, scratch: Path, store: Callable[[Message], tuple[Path, dict[str, Any]]]) -> None:
        self._lease, self._scratch, self._store = lease, scratch, store

    def save(self, message: Message) -> Answer:
        _, manifest = self._store(message)
        crash_point("save.stored")
        with transaction() as session:
            training_states.keep_state(session, self._lease, message["stage"], int(message["step"]), manifest)
        crash_point("save.committed")
        discard_dropped(self._lease.job_id)
        return {"ok": True}

    def saved(self, message: Message) -> Answer:
        return {"steps": [step for step, _, _ in self._kept(message["stage"])]}

    def load(self, message: Message) -> Answer:
        """A path of null: it cannot be read, which is told, and the one before may serve."""
        stage, step = str(message["stage"]), int(message["step"])
        manifest = next((manifest for found, _, manifest in self._kept(stage) if found == step), None)
        if manifest is None:
            return {"path": None}
        folder = self._scratch / "in" / "checkpoints" / stage / f"step-{step:08d}"
        try:
            for name, entry in manifest["files"].items():
                blobs().fetch(entry["sha256"], folder / Path(name).name)
        except BlobError as problem:
            self.drop(message)
            with transaction() as session:
                data = {"stage": stage, "code": "artifact_corrupt", "sha256": problem.sha256}
                told = f"The checkpoint of {stage} after step {step} is not used: {problem}."
                add_event(session, self._lease.job_id, told, level="warn", data=data)
            return {"path": None}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with transaction() as session:
            told = f"{stage} goes on after step {step}"
            add_event(session, self._lease.job_id, told, data={"stage": stage, "step": step})
        return {"path": str(folder)}

    def drop(self, message: Message) -> Answer:
        with transaction() as session:
            training_states.drop_state(session, self._lease, message["stage"], int(message["step"]))
        discard_dropped(self._lease.job_id)
        return {"ok": True}

    def _kept(self, stage: str) -> list[tuple[int, int, dict[str, Any]]]:
        with transaction(read_only=True) as session:
            return training_states.kept_states(session, self._lease.job_id, stage)


def discard_dropped(job_id: str | None = None) -> int:
    """Discards the files of checkpoints that were dropped, of one job or of all; how many checkpoints. May be repeated.

    A file that a checkpoint which counts has too stays. Runners mark every file with their job and token, so that no two have
    the same bytes, and none has those of an output (stages/checkpoint.py); what a blob costs must not hang on that.
    """
    with transaction(read_only=True) as session:
        gone = training_states.dropped_states(session, job_id)
        wanted = training_states.named(session) if gone else set()
    for state in gone:
        for sha256 in {entry["sha256"] for entry in state.manifest["files"].values()} - wanted:
            blobs().discard(sha256)
        crash_point("save.cleared")
        with transaction() as session:
            training_states.forget_state(session, state)
    return len(gone)

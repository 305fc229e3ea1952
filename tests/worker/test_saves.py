"""Checkpoints as the worker keeps them: fenced, the newest two, found by another machine, and a rotten one is passed over."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from models.blobs import blobs
from models.db import transaction
from models.queries import leases
from models.queries.leases import Lease
from models.status import JobStatus
from models.tables import TrainingState
from tests.rows import add_job, get_job, let_lease_expire, set_job
from tests.worker.watching import events, rows
from worker.desk import Desk, ProtocolError
from worker.saves import discard_dropped

STAGE = "round-1/warmup"


def desk_of(tmp_path: Path, worker: str) -> Desk:
    with transaction() as session:
        lease = leases.claim_job(session, worker)
    assert lease
    (tmp_path / worker).mkdir()
    return Desk(lease, tmp_path / worker)


@pytest.fixture
def desk(database: str, tmp_path: Path) -> Desk:
    add_job()
    return desk_of(tmp_path, "w1")


def saving(desk: Desk, step: int, text: str = "") -> dict[str, Any]:
    folder = desk.scratch / f"step-{step}"
    folder.mkdir(exist_ok=True)
    content = (text or f"weights after {step}, token {desk.lease.token}").encode()
    (folder / "weights.safetensors").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest = {"type": "Checkpoint", "files": {"weights.safetensors": entry}}
    return {"ask": "save", "stage": STAGE, "step": step, "path": str(folder), "manifest": manifest}


def steps(desk: Desk) -> list[int]:
    answer = desk.answer({"ask": "saved", "stage": STAGE})
    assert answer
    found: list[int] = answer["steps"]
    return found


def load(desk: Desk, step: int) -> Path | None:
    answer = desk.answer({"ask": "load", "stage": STAGE, "step": step})
    assert answer
    return Path(answer["path"]) if answer["path"] else None


def test_two_are_kept_and_another_worker_finds_them(desk: Desk, tmp_path: Path) -> None:
    messages = [saving(desk, step) for step in (4, 8, 12)]
    for message in (*messages, messages[-1]):  # the last one is said twice: its answer got lost
        assert desk.answer(message) == {"ok": True}
    assert steps(desk) == [12, 8]
    assert len(rows(TrainingState, desk.lease.job_id)) == 2, "the third is gone, row and blob"
    assert not blobs().exists(messages[0]["manifest"]["files"]["weights.safetensors"]["sha256"])
    let_lease_expire(desk.lease.job_id)
    other = desk_of(tmp_path, "w2")
    folder = load(other, 12)
    assert folder is not None
    assert folder.is_relative_to(tmp_path / "w2")
    assert json.loads((folder / "manifest.json").read_text()) == messages[2]["manifest"]
    with pytest.raises(leases.LeaseLost):
        desk.answer(saving(desk, 16))
    assert steps(other) == [12, 8]


def test_what_another_job_s_checkpoint_has_too_stays(desk: Desk, tmp_path: Path) -> None:
    add_job()
    other = desk_of(tmp_path, "w2")
    for one in (desk, other):
        for step in (4, 8):
            one.answer(saving(one, step, f"the same {step}"))
    sha256 = hashlib.sha256(b"the same 4").hexdigest()
    desk.answer(saving(desk, 12))
    assert steps(desk) == [12, 8]
    assert blobs().exists(sha256)
    assert load(other, 4) is not None
    with transaction() as session:
        leases.finish(session, desk.lease, JobStatus.failed, error={"code": "x", "message": "it broke", "param": None})
    assert discard_dropped() == 2
    assert [load(other, step) is not None for step in steps(other)] == [True, True]
    for step in (12, 16):
        other.answer(saving(other, step))
    assert not blobs().exists(sha256), "nobody has it any more"


def test_a_rotten_one_is_told_and_passed_over(desk: Desk) -> None:
    for step in (4, 8):
        desk.answer(saving(desk, step))
    with transaction() as session:
        manifest = next(s.manifest for s in session.query(TrainingState) if s.step == 8)
    blobs().discard(manifest["files"]["weights.safetensors"]["sha256"])
    assert load(desk, 8) is None
    assert steps(desk) == [4]
    assert "The checkpoint of round-1/warmup after step 8 is not used" in events(desk.lease.job_id)[-1]
    assert load(desk, 4) is not None


def test_only_getting_further_than_ever_is_progress(desk: Desk, tmp_path: Path) -> None:
    job = desk.lease.job_id
    set_job(job, attempt=2)
    desk.answer(saving(desk, 4))
    assert get_job(job).attempt == 0
    let_lease_expire(job)
    other = desk_of(tmp_path, "w2")
    set_job(job, attempt=2)
    other.answer(saving(other, 4))
    assert get_job(job).attempt == 2
    other.answer(saving(other, 5))
    assert get_job(job).attempt == 0


def test_a_helper_has_no_checkpoints(desk: Desk) -> None:
    helper = Desk(Lease(desk.lease.job_id, 99, "w3", helper=True), desk.scratch)
    with pytest.raises(ProtocolError, match="a helper has no checkpoints"):
        helper.answer(saving(desk, 4))

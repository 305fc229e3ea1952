"""What a runner may not do: its worker refuses, whatever the runner says."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from sqlalchemy import update

from models.db import transaction
from models.queries import leases, stages
from models.queries.leases import Lease
from models.tables import Chunk, Event, Stage
from tests.rows import add_job, let_lease_expire
from tests.worker.watching import events, rows
from worker.desk import Desk, ProtocolError
from worker.keep import Pipe, PipeKeep
from worker.runner import tell_what_was_found
from worker.semisup.data import Report, Vote
from worker.semisup.guard import Decision, Reason
from worker.semisup.keep import decode, encode


@pytest.fixture
def desk(sqlite: str, tmp_path: Path) -> Desk:
    add_job()
    with transaction() as session:
        lease = leases.claim_job(session, "w1")
    assert lease
    (tmp_path / "scratch").mkdir()
    return Desk(lease, tmp_path / "scratch")


@pytest.fixture
def helper(desk: Desk) -> Desk:
    with transaction() as session:
        stages.open_stage(session, desk.lease, "round-1/propagate", 2, 2)
        lease = leases.claim_help(session, "w2")
    assert lease
    return Desk(lease, desk.scratch)


def commit(desk: Desk, **changes: Any) -> dict[str, Any]:
    folder = desk.scratch / "out" / "report"
    manifest = encode(Report({"accuracy": 0.5}), folder)
    return {"ask": "commit", "stage": "report", "path": str(folder), "manifest": manifest, "seconds": 0.1, **changes}


def test_a_committed_value_comes_back_from_the_blob_store(desk: Desk, tmp_path: Path) -> None:
    assert desk.answer(commit(desk)) == {"ok": True}
    (tmp_path / "elsewhere").mkdir()
    other = Desk(desk.lease, tmp_path / "elsewhere")
    found = other.answer({"ask": "lookup", "stage": "report"})
    assert found
    assert Path(found["path"]).is_relative_to(tmp_path / "elsewhere")
    assert decode(found["manifest"], Path(found["path"])) == Report({"accuracy": 0.5})


def test_a_stage_that_is_looked_up_in_vain_shows_as_open(desk: Desk) -> None:
    assert desk.answer({"ask": "lookup", "stage": "round-2/warmup"}) == {"manifest": None}
    assert [(stage.name, stage.status) for stage in rows(Stage, desk.lease.job_id)] == [("round-2/warmup", "open")]
    progress, _ = desk.take_progress()
    assert progress
    assert (progress["phase"], progress["round"]) == ("warmup", 2)
    assert desk.take_progress() == (None, None)


@pytest.mark.parametrize(
    ("stage", "told"),
    [("round-2/cross-fit/fold-1/evolve", ("evolve", 2)), ("arms/vanilla", ("vanilla", None)), ("report", ("report", None))],
)
def test_progress_says_the_round_also_of_stages_inside_of_stages(desk: Desk, stage: str, told: tuple[str, int | None]) -> None:
    desk.answer({"ask": "lookup", "stage": stage})
    progress, _ = desk.take_progress()
    assert progress
    assert (progress["phase"], progress["round"]) == told


@pytest.mark.parametrize("assist", [False, True])
@pytest.mark.parametrize("reason", get_args(Reason))
def test_what_the_guard_found_is_an_event_and_a_warning_where_unlabeled_data_did_harm(
    desk: Desk, tmp_path: Path, reason: Reason, assist: bool
) -> None:
    said = io.StringIO()
    keep = PipeKeep(Pipe(io.StringIO(), said), tmp_path, chunk_size=1)
    summary = "Unlabeled data helped by 3.0 ± 2.0 points."
    outcome: Any = SimpleNamespace(report=Report({"summary": summary}), decision=Decision("evolved", reason))
    tell_what_was_found({"assist": assist}, keep, outcome)
    for line in said.getvalue().splitlines():
        desk.answer(json.loads(line))
    level = "warn" if reason == "worse" else "info"
    told = [] if assist or reason == "no_unlabeled" else [(level, summary)]
    begun, *others = rows(Event, desk.lease.job_id, Event.id)
    assert begun.message == "Fine-tuning job started"
    assert [(event.level, event.message) for event in others] == told


@pytest.mark.parametrize("path", ["/etc", "../..", "."])
def test_only_files_of_the_scratch_folder_are_stored(desk: Desk, tmp_path: Path, path: str) -> None:
    outside = str((tmp_path / "scratch" / path).resolve()) if path != "." else str(tmp_path)
    with pytest.raises(ProtocolError, match="outside the runner's scratch folder"):
        desk.answer(commit(desk, path=outside))


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_a_manifest_cannot_point_out_of_its_folder(desk: Desk, name: str) -> None:
    message = commit(desk)
    message["manifest"]["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    with pytest.raises(ProtocolError, match="leaves its folder"):
        desk.answer(message)


def test_a_file_that_is_not_what_its_manifest_says_is_not_recorded(desk: Desk) -> None:
    message = commit(desk)
    (Path(message["path"]) / "payload.json").write_text("{}")
    with pytest.raises(ProtocolError, match=r"payload\.json of report changed"):
        desk.answer(message)
    assert desk.answer({"ask": "lookup", "stage": "report"}) == {"manifest": None}


@pytest.mark.parametrize("message", [{"ask": "rm"}, {"tell": "hello"}, {}])
def test_unknown_words_are_refused(desk: Desk, message: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="unknown"):
        desk.answer(message)


def test_a_helper_takes_chunks_and_ends_nothing(desk: Desk, helper: Desk) -> None:
    with pytest.raises(ProtocolError, match="ends no stage"):
        helper.answer(commit(helper))
    with pytest.raises(ProtocolError, match="opens no stage"):
        helper.answer({"ask": "open", "stage": "round-1/justify", "chunks": 1, "items": 1})
    assert helper.answer({"ask": "claim", "stage": "round-1/propagate"}) == {"chunk": 0}
    assert helper.answer({"ask": "claim", "stage": "round-1/justify"}) == {"done": False}
    folder = helper.scratch / "out" / "chunk"
    manifest = encode([Vote("a", "yes", "yes", 0.1, 2)], folder)
    chunk = {"stage": "round-1/propagate", "chunk": 0, "path": str(folder), "manifest": manifest, "seconds": 0.1}
    assert helper.answer({"ask": "commit_chunk", **chunk}) == {"ok": True}
    assert helper.chunks_done == 1


def test_a_chunk_that_came_too_late_is_refused_and_told_and_the_run_goes_on(desk: Desk, helper: Desk) -> None:
    stage = "round-1/propagate"
    assert desk.answer({"ask": "claim", "stage": stage}) == {"chunk": 0}
    with transaction() as session:
        session.execute(update(Chunk).values(lease_until=0.0))
    assert helper.answer({"ask": "claim", "stage": stage}) == {"chunk": 0}
    folder = desk.scratch / "out" / "chunk"
    manifest = encode([Vote("a", "yes", "yes", 0.1, 2)], folder)
    late = {"ask": "commit_chunk", "stage": stage, "chunk": 0, "path": str(folder), "manifest": manifest, "seconds": 0.1}
    assert desk.answer(late) == {"ok": False}
    assert (desk.chunks_done, desk.ending) == (0, None)
    told = rows(Event, desk.lease.job_id, Event.id)[-1]
    assert told.data == {"stage": stage, "chunk": 0, "code": "chunk_lost"}
    assert helper.answer(late) == {"ok": True}
    assert desk.answer({"ask": "claim", "stage": stage}) == {"chunk": 1}


def test_what_the_runner_says_of_its_end_is_kept(desk: Desk) -> None:
    assert desk.answer({"tell": "finished"}) is None
    assert desk.ending == {"finished": True}
    desk.answer({"tell": "failed", "error": {"code": "x"}})
    assert desk.ending == {"error": {"code": "x"}}


def test_what_did_not_fit_is_known_to_whoever_goes_on(desk: Desk, helper: Desk, tmp_path: Path) -> None:
    """A report is written by the last runner of a job; batches were halved by any of them."""

    def tell(by: Desk, message: str, code: str | None) -> None:
        data = {"stage": "s", "code": code} if code else None
        by.answer({"tell": "event", "level": "warn", "message": message, "data": data})

    tell(desk, "propagate: 32 rows at once did not fit into memory; 16 from here on.", "batch_halved")
    tell(helper, "propagate: 32 rows at once did not fit into memory; 8 from here on.", "batch_halved")
    tell(desk, "propagate: 32 rows at once did not fit into memory; 16 from here on.", "batch_halved")
    tell(desk, "back to step 8", "rolled_back")
    tell(desk, "a note", None)
    let_lease_expire(desk.lease.job_id)
    with transaction() as session:
        lease = leases.claim_job(session, "w3")
    assert lease
    answer = Desk(lease, desk.scratch).answer({"ask": "halved"})
    assert answer
    assert [note.partition("; ")[2] for note in answer["notes"]] == ["16 from here on.", "8 from here on."]


def test_warnings_of_the_runner_become_events_of_its_job_and_of_no_job_it_lost(desk: Desk) -> None:
    message = {"tell": "event", "level": "warn", "message": "2 rows are in both files", "data": None}
    desk.answer(message)
    assert events(desk.lease.job_id)[-1] == "2 rows are in both files"
    stale = Desk(Lease(desk.lease.job_id, desk.lease.token - 1, "w0"), desk.scratch)
    with pytest.raises(leases.LeaseLost):
        stale.answer(message)
    assert len(events(desk.lease.job_id)) == 2

"""Forks on the fake runner: what is taken over is not computed, a crash leaves no half, and the result has the same bytes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.blobs import blobs
from models.db import transaction
from models.queries.lineage import kept_stages
from models.tables import Chunk, SampleRow, Stage
from tests.rows import add_file, add_job, get_job, let_lease_expire, set_job
from tests.worker.fake_runner import spec_for
from tests.worker.watching import did, events, how_often, lines, result, rows, runners, wait_until
from tests.worker.working import at_work, notice, work

EVERYTHING = ["round-1/warmup", "round-1/propagate", "round-1/select", "round-1/evolve"]


@pytest.fixture(autouse=True)
def short_periods(database: str, configure: Callable[..., None]) -> None:
    configure(lease_seconds=30)


@pytest.fixture
def original(tmp_path: Path) -> str:
    (tmp_path / "first").mkdir()
    job = add_job(spec=spec_for(tmp_path / "first"), unlabeled_file=add_file(b"{}"), suffix="first")
    work()
    assert get_job(job).status == "succeeded"
    return job


def fork(folder: Path, source: str, stages: list[str], **spec: Any) -> tuple[str, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    given = spec_for(folder, **spec)
    plan = {"job": source, "round": None, "taken_over": stages, "run_again": []}
    return add_job(spec=given, unlabeled_file=get_job(source).unlabeled_file, fork=plan), given


def manifests(job: str) -> dict[str, Any]:
    return {stage.name: stage.manifest for stage in rows(Stage, job)}


def without_report(job: str) -> dict[str, Any]:
    found = result(job)
    for made_again in ("report", "artifacts"):
        found["stages"].pop(made_again)
    return {**found, "artifacts": [a for a in found["artifacts"] if a[0] != "report.json"]}


def test_a_fork_that_changes_nothing_computes_nothing_and_ends_with_the_same_result(tmp_path: Path, original: str) -> None:
    job, spec = fork(tmp_path / "second", original, EVERYTHING)
    work()
    assert get_job(job).status == "succeeded"
    assert [what for _, what in lines(spec)] == ["start"]
    assert without_report(job) == without_report(original)
    assert {chunk.runs for chunk in rows(Chunk, job)} == {0}
    assert {stage.name: stage.taken_from for stage in rows(Stage, job)} == {
        **dict.fromkeys(EVERYTHING, original),
        **dict.fromkeys(["report", "artifacts"]),
    }
    assert (get_job(original).trained_tokens, get_job(job).trained_tokens) == (140, 0), "nothing was trained here"
    assert f"6 of 6 chunks of round-1/propagate taken over from {original}" in events(job)
    assert f"round-1/evolve taken over from {original}" in events(job)


def test_with_another_selector_no_vote_is_cast_again(tmp_path: Path, original: str) -> None:
    job, spec = fork(tmp_path / "second", original, EVERYTHING[:2])
    work()
    assert get_job(job).status == "succeeded"
    assert how_often(spec, "begin chunk") == {}
    assert how_often(spec, "begin") == {"begin evolve 3": 1}
    taken = {stage.name for stage in rows(Stage, job) if stage.taken_from}
    assert taken == set(EVERYTHING[:2])
    assert len(rows(SampleRow, job)) == 6


def test_the_samples_and_rounds_of_a_fork_are_its_own(tmp_path: Path, original: str) -> None:
    job, _ = fork(tmp_path / "second", original, EVERYTHING)
    work()
    theirs, ours = result(original), result(job)
    assert ours["samples"] == theirs["samples"] != []
    assert (ours["rounds"], ours["checkpoints"]) == (theirs["rounds"], theirs["checkpoints"])
    assert len(rows(SampleRow, original)) == 6, "the earlier job keeps its rows"


def test_a_cancelled_job_is_repaired_by_a_fork_that_goes_on_at_its_last_chunk(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    spec = spec_for(tmp_path / "first", holds=["begin chunk 2"])
    first = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    with at_work() as supervisor:
        wait_until(lambda: did(spec, "begin chunk 2"))
        set_job(first, cancel_requested_at=1.0)
        notice(supervisor)
        wait_until(lambda: get_job(first).status == "cancelled")
    with transaction(read_only=True) as session:
        kept = {stage.name: (stage.done, stage.chunks_done) for stage in kept_stages(session, first)}
    assert kept == {"round-1/warmup": (True, 0), "round-1/propagate": (False, 2)}
    second, given = fork(tmp_path / "second", first, list(kept))
    work()
    assert get_job(second).status == "succeeded"
    assert sum(how_often(given, "begin chunk").values()) == 4
    (tmp_path / "quiet").mkdir()
    quiet = add_job(spec=spec_for(tmp_path / "quiet"), unlabeled_file=add_file(b"{}"))
    work()
    assert without_report(second) == without_report(quiet)


def test_a_runner_killed_between_two_takings_leaves_whole_stages_and_the_next_goes_on(tmp_path: Path, original: str) -> None:
    job, spec = fork(tmp_path / "second", original, EVERYTHING[:3], holds=["begin evolve 3"])
    with at_work():
        wait_until(lambda: did(spec, "begin evolve 3"))
        os.kill(runners(spec)[0], signal.SIGKILL)
        wait_until(lambda: get_job(job).status == "succeeded")
    assert len(runners(spec)) == 2
    assert without_report(job) == without_report(original)
    told = [message for message in events(job) if "taken over" in message]
    assert len(told) == len(set(told)) == 3, "each once"


def test_a_worker_whose_lease_is_lost_takes_nothing_over(tmp_path: Path, original: str) -> None:
    from models.queries import leases, lineage

    job, _ = fork(tmp_path / "second", original, EVERYTHING)
    with transaction() as session:
        stale = leases.claim_job(session, "w1")
    assert stale
    let_lease_expire(job)
    with transaction() as session:
        leases.sweep(session)
    for attempt in (
        lambda s: lineage.take_stage(s, stale, "round-1/warmup", original, {"type": "Report", "files": {}}, {}, 0.1),
        lambda s: lineage.take_chunks(s, stale, "round-1/propagate", original, 6, 6),
    ):
        with pytest.raises(leases.LeaseLost), transaction() as session:
            attempt(session)
    assert rows(Stage, job) == []
    assert rows(Chunk, job) == []


def test_a_stage_whose_bytes_are_gone_is_made_again_and_said_so(tmp_path: Path, original: str) -> None:
    files = manifests(original)["round-1/evolve"]["files"]
    blobs().discard(files["files/adapter_model.safetensors"]["sha256"])
    job, spec = fork(tmp_path / "second", original, EVERYTHING)
    work()
    assert get_job(job).status == "succeeded"
    assert how_often(spec, "begin") == {"begin evolve 3": 1}
    assert any(message.startswith("round-1/evolve is made again: blob") for message in events(job))
    assert without_report(job) == without_report(original)


def test_chunks_cut_otherwise_are_not_taken_over(tmp_path: Path, original: str) -> None:
    job, spec = fork(tmp_path / "second", original, EVERYTHING[:2], propagation={"chunk_size": 2})
    work()
    assert get_job(job).status == "succeeded"
    assert sum(how_often(spec, "begin chunk").values()) == 3
    assert {stage.name for stage in rows(Stage, job) if stage.taken_from} == {"round-1/warmup"}


def test_a_fork_of_a_fork_takes_over_what_the_first_took_over(tmp_path: Path, original: str) -> None:
    second, _ = fork(tmp_path / "second", original, EVERYTHING[:2])
    work()
    third, spec = fork(tmp_path / "third", second, EVERYTHING)
    work()
    assert [what for _, what in lines(spec)] == ["start"]
    assert without_report(third) == without_report(original)

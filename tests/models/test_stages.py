import pytest
from sqlalchemy import select, update

from models.db import transaction
from models.queries import leases, stages
from models.queries.leases import LeaseLost
from models.queries.stages import ChunkLost
from models.status import JobStatus
from models.tables import Artifact, Chunk
from tests.models.moves import MANIFEST, claim, claim_chunk, commit, end, open_stage, release
from tests.rows import add_job, get_job, let_lease_expire


def test_a_stage_is_recorded_once_and_the_first_manifest_stays(database: str) -> None:
    add_job()
    lease = claim()
    commit(lease)
    with transaction() as session:
        kept = stages.commit_stage(session, lease, "round-1/agree", {**MANIFEST, "files": {"other": {}}}, {}, 9.0)
    assert kept == MANIFEST
    with transaction(read_only=True) as session:
        assert stages.lookup(session, lease.job_id, "round-1/agree") == MANIFEST
        assert stages.stage_seconds(session, lease.job_id) == {"round-1/agree": 0.5}


def test_chunks_are_handed_out_once_and_the_last_one_ends_the_stage(database: str) -> None:
    add_job()
    lease = claim()
    open_stage(lease)
    open_stage(lease)
    for number in range(3):
        assert claim_chunk(lease).chunk == number
        assert claim_chunk(lease).chunk == number, "an answer that got lost is given again"
        for _ in range(2):  # and so is a confirmation
            with transaction() as session:
                done = stages.commit_chunk(session, lease, "round-1/propagate", number, {"number": number}, 2.0)
        assert done == (number + 1, 3)
    assert claim_chunk(lease) == stages.Claimed(done=True)
    with transaction(read_only=True) as session:
        assert stages.finished_chunks(session, lease.job_id, "round-1/propagate") == [(n, {"number": n}) for n in range(3)]
        assert stages.stage_seconds(session, lease.job_id) == {"round-1/propagate": 6.0}


def test_chunks_of_a_stage_nobody_opened_are_neither_there_nor_done(database: str) -> None:
    add_job()
    assert claim_chunk(claim()) == stages.Claimed()


def test_a_stage_without_items_is_done_at_once(database: str) -> None:
    add_job()
    lease = claim()
    open_stage(lease, chunks=0)
    assert claim_chunk(lease) == stages.Claimed(done=True)


def test_a_helper_shares_chunks_and_is_fenced_by_its_own_token(database: str) -> None:
    add_job()
    owner = claim("owner")
    with transaction() as session:
        assert leases.claim_help(session, "helper") is None, "nothing is open yet"
    open_stage(owner)
    with transaction() as session:
        assert leases.claim_help(session, "owner") is None, "nobody helps himself"
        helper = leases.claim_help(session, "helper")
    assert helper
    assert helper.helper
    assert (claim_chunk(owner).chunk, claim_chunk(helper).chunk) == (0, 1)
    with pytest.raises(LeaseLost, match="chunk 0"), transaction() as session:
        stages.commit_chunk(session, helper, "round-1/propagate", 0, {}, 1.0)
    with transaction() as session:
        assert leases.heartbeat(session, helper).held
        stages.commit_chunk(session, helper, "round-1/propagate", 1, {}, 1.0)
    assert claim_chunk(helper).chunk == 2
    assert claim_chunk(owner).chunk == 0
    with transaction() as session:
        stages.commit_chunk(session, owner, "round-1/propagate", 0, {}, 1.0)
    assert claim_chunk(owner) == stages.Claimed(wait=True), "the helper holds what is left"
    release(helper, counted=True)
    assert claim_chunk(owner).chunk == 2, "a helper that goes away leaves its chunk open"
    assert get_job(owner.job_id).status == "running"
    end(owner, JobStatus.failed)
    with transaction() as session:
        assert not leases.heartbeat(session, helper).held


def test_finished_chunks_survive_a_lost_worker_and_only_the_one_in_flight_is_opened_again(database: str) -> None:
    job = add_job()
    old = claim("old")
    open_stage(old)
    for number in (0, 1):
        claim_chunk(old)
        if number == 0:
            with transaction() as session:
                stages.commit_chunk(session, old, "round-1/propagate", number, {"n": 0}, 1.0)
    let_lease_expire(job)
    new = claim("new")
    with transaction(read_only=True) as session:
        rows = session.execute(select(Chunk.number, Chunk.status, Chunk.runs).order_by(Chunk.number)).all()
    assert [tuple(row) for row in rows] == [(0, "done", 1), (1, "open", 0), (2, "open", 0)]
    with pytest.raises(LeaseLost), transaction() as session:
        stages.commit_chunk(session, old, "round-1/propagate", 1, {}, 1.0)
    assert claim_chunk(new).chunk == 1


def test_a_chunk_that_was_slower_than_its_lease_is_recorded_by_whoever_took_it_and_the_job_stays(database: str) -> None:
    """A machine that stood still: its chunk is gone, its job is not."""
    job = add_job()
    owner = claim("owner")
    open_stage(owner)
    with transaction() as session:
        helper = leases.claim_help(session, "helper")
    assert helper
    assert claim_chunk(owner).chunk == 0
    with transaction() as session:
        session.execute(update(Chunk).where(Chunk.number == 0).values(lease_until=0.0))
    assert claim_chunk(helper).chunk == 0
    for _ in range(2):  # while the helper computes it, and once it has done it
        with pytest.raises(ChunkLost, match="chunk 0"), transaction() as session:
            stages.commit_chunk(session, owner, "round-1/propagate", 0, {"by": "owner"}, 1.0)
        with transaction() as session:
            stages.commit_chunk(session, helper, "round-1/propagate", 0, {"by": "helper"}, 1.0)
    with transaction(read_only=True) as session:
        row = session.execute(select(Chunk.status, Chunk.runs, Chunk.manifest).where(Chunk.number == 0)).one()
    assert tuple(row) == ("done", 1, {"by": "helper"})
    assert claim_chunk(owner).chunk == 1, "the owner goes on"
    assert get_job(job).status == "running"


def test_an_unreadable_output_is_forgotten_and_made_again(database: str) -> None:
    add_job()
    lease = claim()
    commit(lease)
    open_stage(lease, chunks=1)
    claim_chunk(lease)
    with transaction() as session:
        stages.commit_chunk(session, lease, "round-1/propagate", 0, {}, 1.0)
        stages.forget_stage(session, lease, "round-1/agree")
        stages.forget_chunk(session, lease, "round-1/propagate", 0)
        assert stages.lookup(session, lease.job_id, "round-1/agree") is None
    assert claim_chunk(lease).chunk == 0


def test_artifacts_appear_with_the_stage_that_made_them(database: str) -> None:
    add_job()
    lease = claim()
    files = {"payload.json": {"sha256": "0" * 64, "bytes": 2}, "files/report.md": {"sha256": "1" * 64, "bytes": 7}}
    with transaction() as session:
        stages.commit_stage(session, lease, "artifacts", {"type": "Folder", "many": False, "files": files}, {}, 1.0)
    with transaction(read_only=True) as session:
        found = session.execute(select(Artifact.path, Artifact.bytes, Artifact.sha256)).all()
    assert [tuple(row) for row in found] == [("report.md", 7, "1" * 64)]

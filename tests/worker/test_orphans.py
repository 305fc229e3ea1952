"""Bytes that nobody names go, those that anybody names or may still name stay."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from models.blobs import Blobs, blobs
from models.db import transaction
from models.queries import files, orphans, uploads
from models.settings import Settings, settings
from models.status import FileStatus, UploadStatus
from models.tables import Artifact, Base, Chore, Chunk, File, Stage, Tenant, TrainingState, Upload, UploadPart
from tests.conftest import Configure
from tests.rows import TENANT, add_file, add_job
from worker import housekeeper
from worker.orphans import GRACE_SECONDS, clear_uploads, collect, discard_orphans

DAY = 86400.0


@pytest.fixture
def old_database(database: str) -> None:
    """One that was made long before everything that is stored in these tests."""
    with transaction() as session:
        session.execute(update(Tenant).values(created_at=1.0))


def stored(text: str, days: float = 2.0) -> str:
    """A blob that was stored so many days ago."""
    sha256 = blobs().put(io.BytesIO(text.encode())).sha256
    age(sha256, days)
    return sha256


def age(sha256: str, days: float) -> None:
    at = time.time() - days * DAY
    os.utime(Path(settings().data_dir, "blobs", sha256[:2], sha256), (at, at))


def manifest(*hashes: str) -> dict[str, Any]:
    return {
        "type": "Empty",
        "files": {f"{number}.json": {"sha256": sha256, "bytes": 1} for number, sha256 in enumerate(hashes)},
    }


def left(*hashes: str) -> list[bool]:
    return [blobs().exists(sha256) for sha256 in hashes]


# --- blobs ----------------------------------------------------------------------------------------------------------------


def test_what_no_row_names_goes_when_it_is_a_day_old(old_database: None) -> None:
    orphan, young, almost = stored("orphan"), stored("young", 0.0), stored("almost", 0.9)
    assert discard_orphans(DAY) == 1
    assert left(orphan, young, almost) == [False, True, True]
    assert discard_orphans(DAY) == 0


def test_what_any_table_names_stays(old_database: None) -> None:
    names = ("file", "artifact", "stage 1", "stage 2", "chunk", "state", "orphan")
    hashes = {name: stored(name) for name in names}
    job = add_job(training_file=add_file(b"file"))
    age(hashes["file"], 2.0)
    with transaction() as session:
        session.add_all(
            [
                Artifact(job_id=job, path="report.md", bytes=1, sha256=hashes["artifact"], created_at=1.0),
                Stage(
                    job_id=job, name="a", position=1, status="done", opened_at=1.0,
                    manifest=manifest(hashes["stage 1"], hashes["stage 2"]),
                ),
                Stage(job_id=job, name="b", position=2, status="open", opened_at=1.0),
                Chunk(job_id=job, stage="b", number=0, status="done", runs=1, manifest=manifest(hashes["chunk"])),
                Chunk(job_id=job, stage="b", number=1, status="open", runs=0),
                TrainingState(
                    job_id=job, stage="c", step=1, token=1, created_at=1.0, dropped=True, manifest=manifest(hashes["state"])
                ),
            ]
        )  # fmt: skip
        session.flush()
    assert discard_orphans(DAY) == 1
    assert left(*hashes.values()) == [True] * 6 + [False]


def test_no_table_that_names_blobs_is_forgotten() -> None:
    """A new column of hashes or manifests must be read by queries/orphans.py, or its blobs would be taken for nobody's."""
    naming = {
        (table.name, column.name)
        for table in Base.metadata.sorted_tables
        for column in table.c
        if column.name in ("sha256", "manifest") or column.name.endswith(("_blob", "_sha256"))
    }
    read = {
        (str(column.table.name), column.name)
        for statement in (*orphans.HASHES, *orphans.MANIFESTS)
        for column in statement.selected_columns
    }
    no_blobs = {("api_keys", "secret_sha256"), ("upload_parts", "sha256")}  # a secret's hash; in a room of its own
    assert naming - no_blobs == read


def test_a_deleted_file_s_bytes_go_unless_a_job_names_it_or_another_file_has_them(old_database: None) -> None:
    contents = {name: f"{name}\n".encode() for name in ("alone", "of a job", "twice")}
    ids = {name: add_file(content) for name, content in contents.items()}
    add_file(contents["twice"])
    add_job(training_file=ids["of a job"])
    hashes = [stored(content.decode()) for content in contents.values()]
    assert discard_orphans(DAY) == 0
    with transaction() as session:
        for file_id in ids.values():
            files.delete_file(session, TENANT, file_id)
    assert discard_orphans(DAY) == 1
    assert left(*hashes) == [False, True, True]


def test_what_was_stored_before_there_was_this_database_is_not_its_to_judge(database: str) -> None:
    """A store that was given to a new, empty database by mistake keeps everything."""
    theirs = stored("another database's", 30.0)
    with transaction() as session:
        session.execute(update(Tenant).values(created_at=time.time() - 10 * DAY))
    ours = stored("ours", 5.0)
    assert discard_orphans(DAY) == 1
    assert left(theirs, ours) == [True, False]


def test_what_is_stored_again_while_it_is_decided_on_stays(old_database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan, named = stored("orphan"), orphans.named

    def meanwhile(session: Session, among: Any) -> set[str]:
        found = named(session, among)
        blobs().put(io.BytesIO(b"orphan"))  # an upload of the same bytes, whose row is not there yet
        return found

    monkeypatch.setattr(orphans, "named", meanwhile)
    assert discard_orphans(DAY) == 0
    assert left(orphan) == [True]


def test_storing_and_looking_at_once_lose_nothing(old_database: None) -> None:
    """The look takes a blob aside to see whether it is still the old one: what was stored meanwhile comes back."""
    content, taken = b"the same bytes again and again", []
    sha256 = stored(content.decode(), 0.0)
    with ThreadPoolExecutor(1) as pool:
        storing = pool.submit(lambda: [blobs().put(io.BytesIO(content)) for _ in range(20)])
        while not storing.done():
            taken.append(blobs().discard_older(sha256, time.time() - DAY))
        assert {blob.sha256 for blob in storing.result()} == {sha256}
    assert not any(taken)
    assert left(sha256) == [True]
    assert list((settings().data_dir / "blobs" / "incoming").iterdir()) == []


def test_objects_grow_young_when_they_are_stored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an object store, where what is there already is not sent again."""
    store = Blobs(f"memory://{tmp_path.name}", spool=tmp_path / "spool")
    sha256 = store.put(io.BytesIO(b"hello")).sha256
    genuine, later = time.time(), time.time() + 2 * DAY
    assert store.older(later) == [sha256]
    monkeypatch.setattr("models.blobs.time.time", lambda: later)
    before = store._fs.modified(store._key(sha256))
    store.put(io.BytesIO(b"hello"))
    assert store._fs.modified(store._key(sha256)) > before
    assert not store.discard_older(sha256, genuine)
    assert store.discard_older(sha256, later)
    assert not store.exists(sha256)


def test_what_a_process_left_half_stored_goes_too(old_database: None) -> None:
    spool = settings().data_dir / "blobs" / "incoming"
    stored("something")
    half, running = spool / ".part-half", spool / ".part-running"
    for path in (half, running):
        path.write_bytes(b"x")
    os.utime(half, (time.time() - 2 * DAY,) * 2)
    discard_orphans(DAY)
    assert (half.exists(), running.exists()) == (False, True)


# --- uploads in parts -----------------------------------------------------------------------------------------------------


def begun(days: float = 2.0, seconds: float = 3600.0) -> str:
    """An upload with one part, both as old as that."""
    columns = {"filename": "a", "purpose": "fine-tune", "options": {}, "expires_after": None}
    with transaction() as session:
        row = uploads.insert_upload(session, TENANT, seconds=seconds, bytes=4, **columns)
        blob = blobs().room(row["id"]).put(io.BytesIO(b"part"))
        uploads.insert_part(session, row, bytes=4, sha256=blob.sha256)
    for path in Path(settings().data_dir, "blobs", "rooms", row["id"]).rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return str(row["id"])


def part_of(upload: str) -> bytes:
    with transaction(read_only=True) as session:
        row = uploads.get_upload(session, TENANT, upload)
        assert row is not None
        (part,) = uploads.parts(session, row)
    with blobs().room(upload).open(part["sha256"]) as file:
        return file.read()


def end(upload: str, status: UploadStatus) -> None:
    with transaction() as session:
        row = uploads.lock_upload(session, TENANT, upload)
        assert row is not None
        uploads.end_upload(session, row, status)


def test_a_blob_of_a_running_upload_is_never_taken(old_database: None) -> None:
    running, cancelled = begun(days=400.0), begun()
    end(cancelled, UploadStatus.cancelled)
    assert clear_uploads() == [cancelled]
    assert discard_orphans(DAY) == 0
    assert part_of(running) == b"part"
    assert blobs().rooms() == [running]


def test_an_upload_whose_hour_is_over_ends_and_its_parts_go(old_database: None) -> None:
    late, just_late = begun(seconds=-GRACE_SECONDS - 1), begun(seconds=-1.0)
    assert clear_uploads() == [late]
    with transaction(read_only=True) as session:
        states = {row.id: row.status for row in session.query(Upload)}
        assert [part.upload_id for part in session.query(UploadPart)] == [just_late]
    assert states == {late: UploadStatus.expired, just_late: UploadStatus.pending}
    assert part_of(just_late) == b"part"  # a completion that began in time may be at it


def test_parts_that_came_while_the_upload_ended_go(old_database: None) -> None:
    upload = begun()
    end(upload, UploadStatus.cancelled)
    blobs().room(upload).clear()
    blobs().room(upload).put(io.BytesIO(b"late"))
    assert clear_uploads() == [upload]
    assert blobs().rooms() == []


# --- who looks, and when --------------------------------------------------------------------------------------------------


def make_due(name: str = "orphans") -> None:
    with transaction() as session:
        session.execute(update(Chore).where(Chore.name == name).values(begun_at=1.0))


def test_one_of_many_processes_looks_and_then_nobody_for_hours(old_database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    monkeypatch.setattr("worker.orphans.discard_orphans", looked.append)
    collect()
    assert looked == []  # the database was made a moment ago
    make_due()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: collect(), range(8)))
    assert looked == [DAY]


def test_it_can_be_turned_off_and_is_never_hasty(old_database: None, configure: Configure) -> None:
    assert Settings.model_fields["orphan_seconds"].default == DAY
    orphan, hour = stored("orphan"), stored("an hour", 1 / 24)
    configure(orphan_seconds=0)
    make_due()
    collect()
    assert left(orphan, hour) == [True, True]
    configure(orphan_seconds=1)
    collect()
    assert left(orphan, hour) == [False, True]


def test_the_housekeeper_of_every_process_asks(old_database: None) -> None:
    orphan, upload = stored("orphan"), begun(seconds=-GRACE_SECONDS - 1)
    make_due()
    make_due("uploads")
    keeping = housekeeper.Housekeeper()
    keeping.start()
    try:
        deadline = time.monotonic() + 120
        while (any(left(orphan)) or blobs().rooms()) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        keeping.stop()
    assert left(orphan) == [False]
    assert blobs().rooms() == [], upload


def test_a_file_s_row_is_what_keeps_it(old_database: None) -> None:
    sha256 = stored("row")
    file = add_file(b"row")
    age(sha256, 2.0)
    assert discard_orphans(DAY) == 0
    with transaction() as session:
        session.execute(update(File).where(File.id == file).values(status=FileStatus.deleted))
    assert discard_orphans(DAY) == 1

"""A file is read in a child that may die of it: what comes back is a clear error, and the next file is read as ever."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from models.blobs import blobs
from tests.api.rows import labeled
from tests.worker.watching import alive, wait_until
from worker import parsing
from worker.parsing import ReaderAway, Readers, Unreadable
from worker.semisup.errors import DataError, DatasetRejected

ODD = (sys.executable, "-m", "tests.security.odd_reader")
GIVEN = {"names": ["rows.csv"], "options": [{}]}
MB = 1 << 20


@pytest.fixture(scope="module")
def odd() -> Iterator[Readers]:
    """With so much time that no machine that stands still for seconds takes a reader for slow."""
    made = Readers(ODD, memory_bytes=400 * MB, cpu_seconds=60)
    yield made
    made.close()


def hurried(readers: Readers, cpu_seconds: float, work: str, file: Any) -> Unreadable:
    """What comes of `work` when it has this time and no more."""
    patient, readers._cpu_seconds = readers._cpu_seconds, cpu_seconds
    try:
        with pytest.raises(Unreadable) as caught:
            readers.ask(work, [file], GIVEN)
    finally:
        readers._cpu_seconds = patient
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\na,b\n")
    with path.open("rb") as opened:
        yield opened


@pytest.mark.parametrize(
    ("work", "code", "says"),
    [
        ("crash", "reader_failed", "SIGSEGV"),
        ("abort", "reader_failed", "SIGABRT"),
        ("leave", "reader_failed", "exit status 3"),
        ("bug", "reader_failed", "KeyError"),
        ("killed", "too_large_to_read", "400 MB"),
        ("eat", "too_large_to_read", "400 MB"),
        ("connect", "reader_failed", "PermissionError"),
        ("resolve", "reader_failed", "PermissionError"),
        ("run", "reader_failed", "PermissionError"),
        ("system", "reader_failed", "PermissionError"),
        ("fork", "reader_failed", "PermissionError"),
        ("write", "reader_failed", "PermissionError"),
        ("unpickle", "reader_failed", "PermissionError"),
    ],
)
def test_a_reader_that_dies_is_the_files_fault_and_says_how(odd: Readers, file: Any, work: str, code: str, says: str) -> None:
    with pytest.raises(Unreadable) as caught:
        odd.ask(work, [file], GIVEN)
    assert caught.value.code == code
    assert says in caught.value.message
    assert "'rows.csv'" in caught.value.message
    assert "a row of data" not in caught.value.message
    assert caught.value.hint
    assert odd.ask("pid", [file], GIVEN)  # the next file is read


def test_a_reader_that_computes_for_too_long_is_ended_and_the_next_file_is_read(odd: Readers, file: Any) -> None:
    said = hurried(odd, 1, "spin", file)
    assert (said.code, "1 s" in said.message, "'rows.csv'" in said.message) == ("too_slow_to_read", True, True)
    assert odd.ask("pid", [file], GIVEN)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a reader that is stopped is taken for one that ended")
def test_a_reader_that_is_stopped_and_goes_on_gives_its_answer(odd: Readers, file: Any) -> None:
    """What is frozen for a moment (a debugger, a job's control) has not taken too much memory."""
    assert odd.ask("pid", [file], GIVEN)
    done = threading.Event()

    def wake() -> None:
        child = psutil.Process(odd._child.pid)  # type: ignore[union-attr]
        while not done.wait(0.02):
            for one in child.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if one.status() == psutil.STATUS_STOPPED:
                        one.resume()

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        assert odd.ask("stop", [file], GIVEN) is None
    finally:
        done.set()
        thread.join()


def test_a_reader_sees_no_key_no_url_and_no_file_but_its_own(odd: Readers, file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIFT_DATABASE_URL", "postgresql://secret")
    seen = Readers(ODD)
    try:
        environment = seen.ask("environment", [file], GIVEN)
        few = seen.ask("descriptors", [file], GIVEN)
    finally:
        seen.close()
    assert not [name for name in environment if name.startswith("SEMIFT_") or "KEY" in name]
    assert few <= 10


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no `unshare` to find out whether this kernel lets us leave")
def test_a_reader_has_no_network_where_the_kernel_lets_it_leave(odd: Readers, file: Any) -> None:
    if not any(
        subprocess.run(["unshare", how, "true"], capture_output=True, check=False).returncode == 0 for how in ("-n", "-rn")
    ):
        pytest.skip("this kernel lets nobody here leave the network")
    assert odd.ask("links", [file], GIVEN) == ["lo"]


def test_a_deadline_ends_a_reader_that_does_nothing(file: Any) -> None:
    idle = Readers(ODD)
    try:
        assert idle.ask("pid", [file], GIVEN)  # it has been started: that takes its own time
        assert hurried(idle, 0.1, "sleep", file).code == "too_slow_to_read"
        child = psutil.Process(idle._child.pid)  # type: ignore[union-attr]
        _, left = psutil.wait_procs(child.children(recursive=True), timeout=120)
        assert left == []
    finally:
        idle.close()


def test_an_answer_without_end_is_not_taken(odd: Readers, file: Any) -> None:
    with pytest.raises(ReaderAway):
        odd.ask("long", [file], GIVEN)


def test_a_child_that_was_killed_is_started_again(odd: Readers, file: Any) -> None:
    odd.ask("pid", [file], GIVEN)
    os.kill(odd._child.pid, signal.SIGKILL)  # type: ignore[union-attr]
    odd._child.wait()  # type: ignore[union-attr]
    assert odd.ask("pid", [file], GIVEN)


def test_many_threads_get_their_own_answers(tmp_path: Path) -> None:
    asked = Readers()
    found: dict[int, int] = {}

    def one(rows: int) -> None:
        path = tmp_path / f"{rows}.csv"
        path.write_text("text,label\n" + "a,b\n" * rows)
        with path.open("rb") as opened:
            found[rows] = asked.ask("validate", [opened], GIVEN)["rows"]

    threads = [threading.Thread(target=one, args=(rows,)) for rows in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked.close()
    assert found == {rows: rows for rows in range(1, 13)}


def test_the_child_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:  # the "server": starts a child, says who it is, and is killed
        try:
            path = tmp_path / "rows.csv"
            path.write_bytes(b"text,label\na,b\n")
            asked = Readers()
            with path.open("rb") as opened:
                asked.ask("validate", [opened], GIVEN)
            (tmp_path / "pid").write_text(str(asked._child.pid))  # type: ignore[union-attr]
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(child), 120)
    assert not alive(child)


def stored(content: bytes, name: str = "rows.jsonl") -> parsing.Source:
    return parsing.Source(blobs().put(io.BytesIO(content)).sha256, name, {})


def bomb(texts: int = 5_000_000) -> bytes:
    """Half a megabyte of Parquet: one text of 1000 characters, five million times. Its footer says half a megabyte too."""
    column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), texts), pa.array(["x" * 1000]))
    file = io.BytesIO()
    pq.write_table(pa.table({"text": column}), file, row_group_size=texts)
    content = file.getvalue()
    assert len(content) < 600_000
    assert pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).total_byte_size < 600_000
    return content


def test_half_a_megabyte_that_decodes_to_five_gigabytes_is_refused_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bomb()
    monkeypatch.setattr(parsing, "WALL_PER_CPU", 100.0)  # computing time alone is limited: a busy machine changes nothing
    found = Readers(memory_bytes=512 * MB, cpu_seconds=1)
    with blobs().open(blobs().put(io.BytesIO(content)).sha256) as file:
        report = found.ask("validate", [file], {"names": ["bomb.parquet"], "options": [{}]})
    found.close()
    (finding,) = report["errors"]
    assert finding["code"] == "too_large"
    assert "row group 0" in finding["message"]
    assert "209,715,200" in finding["message"]


def test_reports_previews_and_comparisons_come_from_the_child() -> None:
    good = stored(labeled())
    assert parsing.report(good).ok
    assert len(parsing.page(good, 3, 0).rows) == 3
    found = parsing.compare({"labeled": good, "test": good}, allow=["test_leakage"])
    assert ("test_leakage", "warning") in [(finding.code, finding.severity) for finding in found]
    with pytest.raises(DatasetRejected) as caught:
        parsing.compare({"labeled": stored(b'{"text": "a", "label": "b"}\n{"text": ""}\n')}, allow=())
    assert (caught.value.code, caught.value.line) == ("empty_text", 2)


def test_held_out_rows_an_adapter_has_learned_are_refused_by_the_child() -> None:
    learned = stored(labeled(), "earlier.jsonl")
    with pytest.raises(DataError) as caught:
        parsing.seen({"test": stored(labeled())}, [learned], [], {})
    assert (caught.value.code, caught.value.param) == ("test_leakage", "test_file")
    assert parsing.seen({"test": stored(b'{"text": "new", "label": "b"}\n')}, [learned], [], {}) == ()


def test_the_server_answers_on_when_a_file_kills_its_reader(
    app: TestClient, odd: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(work: str, files: Any, given: Any) -> Any:
        return odd.ask("crash", files, given)

    with monkeypatch.context() as broken:
        broken.setattr(parsing.readers(), "ask", ask)
        made = app.post("/v1/files", files={"file": ("rows.csv", b"text,label\na,b\n")}, data={"purpose": "fine-tune"})
        assert made.status_code == 200
        assert made.json()["status"] == "error"
        assert made.json()["status_details"].startswith("reader_failed: Reading 'rows.csv'")
        shown = app.get(f"/v1/files/{made.json()['id']}/preview")
        assert (shown.status_code, shown.json()["error"]["code"]) == (400, "reader_failed")
    order = app.post("/v1/fine_tuning/jobs", json={"model": "semift-small", "training_file": made.json()["id"]})
    assert (order.status_code, order.json()["error"]["code"]) == (400, "invalid_training_file")
    fine = app.post("/v1/files", files={"file": ("rows.jsonl", labeled())}, data={"purpose": "fine-tune"})
    assert fine.json()["status"] == "processed"


def test_without_a_child_uploads_wait_and_previews_say_try_again(app: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Readers((sys.executable, "-c", "raise SystemExit(1)"))
    monkeypatch.setattr(parsing, "readers", lambda: nowhere)
    made = app.post("/v1/files", files={"file": ("rows.jsonl", labeled())}, data={"purpose": "fine-tune"}).json()
    assert made["status"] == "uploaded"
    shown = app.get(f"/v1/files/{made['id']}/preview")
    assert (shown.status_code, shown.headers["retry-after"]) == (503, "1")
    nowhere.close()

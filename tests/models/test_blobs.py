import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from models.blobs import BlobCorrupt, BlobMissing, Blobs, Stored, blobs

HELLO = hashlib.sha256(b"hello").hexdigest()


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    url = (tmp_path / "blobs").as_uri() if request.param == "file" else f"memory://{tmp_path.name}"
    return Blobs(url, spool=tmp_path / "spool")


def test_bytes_come_back_under_their_hash(store: Blobs, tmp_path: Path) -> None:
    assert store.put(io.BytesIO(b"hello")) == Stored(HELLO, 5)
    (tmp_path / "again").write_bytes(b"hello")
    assert store.put_path(tmp_path / "again") == Stored(HELLO, 5)
    assert store.exists(HELLO)
    assert store.size(HELLO) == 5
    with store.open(HELLO) as file:
        assert file.read() == b"hello"
    store.fetch(HELLO, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == b"hello"


def test_nothing_temporary_is_left(store: Blobs, tmp_path: Path) -> None:
    store.put(io.BytesIO(b"hello"))
    store.fetch(HELLO, tmp_path / "copy")
    assert [path.name for path in tmp_path.rglob("*") if path.name.startswith(".part-")] == []


def test_a_source_that_breaks_off_leaves_nothing(store: Blobs, tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("connection reset")
            return super().read(2)

    with pytest.raises(OSError, match="connection reset"):
        store.put(Broken(b"hello"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_missing_blob_is_named(store: Blobs, tmp_path: Path) -> None:
    for ask in (store.open, store.size, lambda sha256: store.fetch(sha256, tmp_path / "copy")):
        with pytest.raises(BlobMissing, match=HELLO):
            ask(HELLO)
    assert not store.exists(HELLO)
    assert not (tmp_path / "copy").exists()


def test_a_corrupt_blob_is_found_taken_out_and_can_be_stored_again(tmp_path: Path) -> None:
    store = Blobs((tmp_path / "blobs").as_uri(), spool=tmp_path)
    store.put(io.BytesIO(b"hello"))
    (tmp_path / "blobs" / HELLO[:2] / HELLO).write_bytes(b"hellO")
    with pytest.raises(BlobCorrupt, match=HELLO):
        store.fetch(HELLO, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not store.exists(HELLO)
    store.put(io.BytesIO(b"hello"))
    store.fetch(HELLO, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"hello"


@pytest.mark.parametrize("name", ["../../etc/passwd", "", HELLO.upper(), HELLO[:-1]])
def test_only_a_hash_is_a_name(store: Blobs, name: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        store.open(name)


def test_the_configured_store_is_a_folder_of_the_data_folder(tmp_path: Path, configure: Any) -> None:
    blobs().put(io.BytesIO(b"hello"))
    assert (tmp_path / "data" / "blobs" / HELLO[:2] / HELLO).read_bytes() == b"hello"
    configure(store_url=(tmp_path / "elsewhere").as_uri())
    assert not blobs().exists(HELLO)

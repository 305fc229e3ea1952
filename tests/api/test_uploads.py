"""Uploads in parts: OpenAI's client sends a large file piece by piece; what is refused on the way."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.uploads.schemas import MAX_PARTS
from models.blobs import blobs
from models.settings import settings
from models.tables import File, Upload, UploadPart
from tests.api.parts import PIECES, ROWS, THIRD, UPLOADS, add, added, announce, begun, complete, count, refused, set_upload
from tests.api.sending import JOBS
from tests.conftest import Configure
from tests.keys import AUTH, KEY, add_key, auth

# --- the stock client -----------------------------------------------------------------------------------------------------


def test_the_stock_client_s_helper_sends_a_file_in_parts(client: openai.OpenAI, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(ROWS)
    made: Any = client.uploads.upload_file_chunked(
        file=tmp_path / "rows.jsonl",
        mime_type="application/jsonl",
        purpose="fine-tune",
        part_size=1000,
        md5=hashlib.md5(ROWS).hexdigest(),
    )
    assert (made.object, made.status, made.bytes, made.filename) == ("upload", "completed", len(ROWS), "rows.jsonl")
    assert (made.file.object, made.file.bytes, made.file.status) == ("file", len(ROWS), "processed")
    assert made.file.sha256 == hashlib.sha256(ROWS).hexdigest()
    assert made.file.contents == {"format": "jsonl", "rows": 400, "labeled": 400, "unlabeled": 0}
    assert client.files.content(made.file.id).read() == ROWS
    assert client.fine_tuning.jobs.create(model="semift-small", training_file=made.file.id).status == "queued"
    assert (blobs().rooms(), count(UploadPart)) == ([], 0)


def test_parts_in_any_order_become_the_file_in_the_order_that_is_given(client: openai.OpenAI) -> None:
    extra: Any = {"dataset": {"role": "labeled", "labels": ["neg", "pos"]}}
    upload = client.uploads.create(**announce(), expires_after={"anchor": "created_at", "seconds": 7200}, extra_body=extra)
    assert (upload.status, upload.file, upload.purpose) == ("pending", None, "fine-tune")
    assert 3595 <= upload.expires_at - upload.created_at <= 3605
    parts = [client.uploads.parts.create(upload.id, data=piece) for piece in reversed(PIECES)]
    assert {(part.object, part.upload_id) for part in parts} == {("upload.part", upload.id)}
    done: Any = client.uploads.complete(upload.id, part_ids=[part.id for part in reversed(parts)])
    assert client.files.content(done.file.id).read() == ROWS
    assert done.file.dataset == {"role": "labeled", "labels": ["neg", "pos"]}
    assert 7195 <= done.file.expires_at - done.file.created_at <= 7205
    assert client.uploads.complete(upload.id, part_ids=[parts[0].id]) == done  # a second time changes nothing
    with pytest.raises(openai.ConflictError) as ended:
        client.uploads.cancel(upload.id)
    assert ended.value.code == "invalid_state"


def test_the_asynchronous_client_adds_parts_in_parallel(server: str) -> None:
    async def run() -> bytes:
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
            upload = await client.uploads.create(**announce())
            parts = await asyncio.gather(*(client.uploads.parts.create(upload.id, data=piece) for piece in PIECES))
            done = await client.uploads.complete(upload.id, part_ids=[part.id for part in parts])
            assert done.file is not None
            return (await client.files.content(done.file.id)).read()

    assert asyncio.run(run()) == ROWS


def test_a_cancelled_upload_takes_no_more(client: openai.OpenAI) -> None:
    upload = client.uploads.create(**announce())
    part = client.uploads.parts.create(upload.id, data=PIECES[0])
    cancelled = client.uploads.cancel(upload.id)
    assert (cancelled.status, cancelled.file) == ("cancelled", None)
    assert client.uploads.cancel(upload.id) == cancelled
    calls: list[Callable[[], Any]] = [
        lambda: client.uploads.parts.create(upload.id, data=PIECES[1]),
        lambda: client.uploads.complete(upload.id, part_ids=[part.id]),
    ]
    for call in calls:
        with pytest.raises(openai.ConflictError) as ended:
            call()
        assert ended.value.code == "invalid_state"
        assert "cancelled" in ended.value.message
    assert (blobs().rooms(), count(UploadPart), count(File)) == ([], 0, 0)


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "code", "param", "says"),
    [
        ({"bytes": 0}, 400, "out_of_range", "bytes", "at least 1"),
        ({"bytes": "9"}, 400, "wrong_type", "bytes", "an integer"),
        ({"bytes": 1 << 40}, 413, "file_too_large", "bytes", "1024 MiB"),
        ({"purpose": "batch"}, 400, "unknown_choice", "purpose", "fine-tune"),
        ({"filename": ""}, 400, "out_of_range", "filename", "1 to 1024"),
        ({"mime_typ": "x"}, 400, "unknown_field", "mime_typ", "mime_type"),
        ({"mime_type": None}, 400, "wrong_type", "mime_type", "a string"),
        ({"dataset": {"format": "xlsx"}}, 400, "unknown_choice", "dataset.format", "jsonl"),
        ({"dataset": {"zzz": 1}}, 400, "unknown_field", "dataset.zzz", "mapping"),
        ({"dataset": {"mapping": {"zzz": "a"}}}, 400, "unknown_field", "dataset.mapping.zzz", "keys are"),
        ({"dataset": {"labels": 3}}, 400, "invalid_value", "dataset.labels", "labels"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "out_of_range", "expires_after.seconds", "3600"),
    ],
)
def test_an_announcement_that_cannot_be_met(
    sqlite: str, change: dict[str, Any], status: int, code: str, param: str, says: str
) -> None:
    app = TestClient(create_app(), headers=AUTH)
    assert says in refused(app.post(UPLOADS, json={**announce(), **change}), status, code, param)
    assert count(Upload) == 0


def test_a_file_name_is_cleaned(app: TestClient) -> None:
    assert app.post(UPLOADS, json=announce(filename="../../etc/passwd")).json()["filename"] == "passwd"


def test_parts_that_are_none(app: TestClient) -> None:
    upload = begun(app)
    url = f"{UPLOADS}/{upload}/parts"
    assert "data" in refused(app.post(url, files={"date": b"x"}), 400, "unknown_field", "date")
    refused(app.post(url, files={"file": b"x"}), 400, "unknown_field", "file")
    refused(app.post(url, files={"data": b""}), 400, "invalid_value", "data")
    boundary = {"content-type": "multipart/form-data; boundary=b"}
    as_text = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\ntext\r\n--b--\r\n'
    refused(app.post(url, content=as_text, headers=boundary), 400, "missing_field", "data")
    refused(app.post(url, content=b"x"), 415, "unsupported_media_type", None)
    refused(add(app, "upload_none", b"x"), 404, "upload_not_found", "upload_id")
    assert count(UploadPart) == 0
    assert blobs().rooms() == []


def test_a_part_over_the_limit_is_stopped_by_its_length_and_without_one(app: TestClient, configure: Configure) -> None:
    upload = begun(app, size=1 << 20)
    configure(max_part_bytes=1000)
    assert add(app, upload, b"x" * 1000).status_code == 200
    assert "1000 bytes" in refused(add(app, upload, b"x" * (200 << 10)), 413, "part_too_large", "data")
    sent = 0

    def endless() -> Any:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="data"; filename="p"\r\n\r\n'
        for _ in range(512):
            sent += 1024
            yield b"x" * 1024

    headers = {"content-type": "multipart/form-data; boundary=b"}
    refused(app.post(f"{UPLOADS}/{upload}/parts", content=endless(), headers=headers), 413, "part_too_large", "data")
    assert count(UploadPart) == 1


def test_a_part_of_a_few_bytes_too_many_is_refused_too(app: TestClient, configure: Configure) -> None:
    """What its Content-Length does not tell: the form's own bytes are not the part's."""
    upload = begun(app)
    configure(max_part_bytes=1000)
    refused(add(app, upload, b"x" * 1001), 413, "part_too_large", "data")
    assert blobs().rooms() == []


def test_parts_hold_no_more_than_was_announced_and_the_same_bytes_count_once(app: TestClient) -> None:
    upload = begun(app, size=10)
    assert add(app, upload, b"12345").status_code == 200
    assert add(app, upload, b"12345").status_code == 200  # its answer was lost, so it came again
    says = refused(add(app, upload, b"678901"), 400, "bytes_mismatch", "data")
    assert "11 bytes" in says
    assert "announced with 10" in says
    last = add(app, upload, b"67890").json()["id"]
    assert add(app, upload, b"x").status_code == 400
    assert complete(app, upload, [last]).status_code == 400


def test_only_all_of_the_bytes_make_a_file(app: TestClient) -> None:
    upload = begun(app)
    ids = added(app, upload)
    says = refused(complete(app, upload, ids[:2]), 400, "bytes_mismatch", "part_ids")
    assert f"have {2 * THIRD} bytes" in says
    assert f"announced with {len(ROWS)}" in says
    for strange in ("part_none", "", "\u00e9" * 100):
        refused(complete(app, upload, [*ids[:2], strange]), 400, "part_not_found", "part_ids")
    refused(complete(app, upload, [ids[0], ids[0], ids[2]]), 400, "invalid_value", "part_ids")
    refused(complete(app, upload, []), 400, "out_of_range", "part_ids")
    refused(app.post(f"{UPLOADS}/{upload}/complete", json={}), 400, "missing_field", "part_ids")
    refused(complete(app, upload, ids, md5="abc"), 400, "invalid_value", "md5")
    other = hashlib.md5(b"other").hexdigest()
    says = refused(complete(app, upload, ids, md5=other), 400, "checksum_mismatch", "md5")
    assert other in says
    assert hashlib.md5(ROWS).hexdigest() in says
    assert count(File) == 0
    assert not blobs().exists(hashlib.sha256(ROWS).hexdigest())  # nothing was stored of what was not meant
    done = complete(app, upload, ids, md5=hashlib.md5(ROWS).hexdigest().upper())
    assert done.json()["status"] == "completed", done.text


def test_a_bad_file_is_made_and_reported_as_any_other(app: TestClient) -> None:
    content = b"text,label\na,b\n ,c\n"
    upload = begun(app, size=len(content), filename="rows.csv")
    file = complete(app, upload, [add(app, upload, content).json()["id"]]).json()["file"]
    assert (file["status"], file["status_details"][:18]) == ("error", "empty_text: line 3")
    order = app.post(JOBS, json={"model": "semift-small", "training_file": file["id"]})
    assert (order.json()["error"]["code"], order.json()["error"]["line"]) == ("invalid_training_file", 3)


def test_an_hour_later_it_has_expired(app: TestClient) -> None:
    upload = begun(app)
    ids = added(app, upload)
    set_upload(expires_at=1.0)
    for response in (add(app, upload, b"x"), complete(app, upload, ids), app.post(f"{UPLOADS}/{upload}/cancel")):
        assert "expired" in refused(response, 409, "invalid_state", "status")
        assert response.headers["x-should-retry"] == "false"
    assert count(File) == 0


def test_announced_bytes_count_until_the_upload_ends(app: TestClient, configure: Configure) -> None:
    size = len(ROWS)
    configure(tenant_stored_bytes=2 * size)
    first, second = begun(app), begun(app)
    says = refused(app.post(UPLOADS, json=announce(1)), 429, "quota_exceeded", None)
    assert f"{2 * size} of {2 * size} stored bytes" in says
    whole = {"files": {"file": ("rows.jsonl", ROWS)}, "data": {"purpose": "fine-tune"}}
    refused(app.post("/v1/files", **whole), 429, "quota_exceeded", None)
    assert complete(app, first, added(app, first)).status_code == 200  # its room was spoken for
    refused(app.post(UPLOADS, json=announce(1)), 429, "quota_exceeded", None)
    app.post(f"{UPLOADS}/{second}/cancel")
    third = begun(app)
    set_upload(expires_at=1.0)
    assert app.post(UPLOADS, json=announce()).status_code == 200
    refused(complete(app, third, ["part_x"]), 409, "invalid_state", "status")


def test_a_key_without_the_scope_begins_nothing(app: TestClient) -> None:
    upload = begun(app)
    reader = TestClient(app.app, headers=auth(add_key("default", ("read",))))
    for response in (
        reader.post(UPLOADS, json=announce()),
        add(reader, upload, b"x"),
        reader.post(f"{UPLOADS}/{upload}/cancel"),
    ):
        refused(response, 403, "forbidden", None)


def test_the_settings_are_those_of_openai() -> None:
    assert (settings().max_part_bytes, settings().upload_seconds) == (64 << 20, 3600)
    assert MAX_PARTS * settings().max_part_bytes > settings().max_file_bytes

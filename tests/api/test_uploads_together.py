"""Uploads in parts, twice, at once, and with a server that dies in the middle: the file is there whole or not at all."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from models import crash
from models.blobs import Blobs, blobs
from models.tables import File, Upload, UploadPart
from tests.api.dying import die
from tests.api.parts import PIECES, ROWS, UPLOADS, add, added, announce, begun, complete, count, refused


def test_a_request_that_is_sent_again_is_answered_alike(app: TestClient) -> None:
    keyed = {"idempotency-key": "a"}
    first = app.post(UPLOADS, json=announce(), headers=keyed)
    assert app.post(UPLOADS, json=announce(), headers=keyed).content == first.content
    upload = first.json()["id"]
    part = add(app, upload, PIECES[0], **{"x-stainless-retry-count": "0"})
    again = add(app, upload, PIECES[0], **{"x-stainless-retry-count": "1"})
    assert again.content == part.content
    assert (count(Upload), count(UploadPart)) == (1, 1)
    ids = [part.json()["id"], *(add(app, upload, piece).json()["id"] for piece in PIECES[1:])]
    answers = [
        app.post(f"{UPLOADS}/{upload}/complete", json={"part_ids": ids}, headers={"idempotency-key": "b"}) for _ in range(2)
    ]
    assert answers[0].content == answers[1].content
    assert count(File) == 1


def test_completions_at_once_make_one_file(app: TestClient) -> None:
    upload = begun(app)
    ids, all_here = added(app, upload), threading.Barrier(6)

    def send(_: int) -> httpx.Response:
        all_here.wait()
        return complete(app, upload, ids)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    assert {response.status_code for response in answers} <= {200, 409}
    made = {response.json()["file"]["id"] for response in answers if response.status_code == 200}
    assert len(made) == 1
    assert count(File) == 1
    assert app.get(f"/v1/files/{made.pop()}/content").content == ROWS


def test_a_cancellation_while_parts_are_put_together_leaves_no_file(app: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begun(app)
    ids, put = added(app, upload), Blobs.put

    def slow(self: Blobs, source: Any) -> Any:
        assert app.post(f"{UPLOADS}/{upload}/cancel").status_code == 200
        return put(self, source)

    with monkeypatch.context() as patched:
        patched.setattr(Blobs, "put", slow)
        assert "cancelled" in refused(complete(app, upload, ids), 409, "invalid_state", "status")
    assert (count(File), count(UploadPart), blobs().rooms()) == (0, 0, [])


def test_a_cancellation_while_a_part_arrives_wins(app: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begun(app)
    put = Blobs.put

    def slow(self: Blobs, source: Any) -> Any:
        stored = put(self, source)
        assert app.post(f"{UPLOADS}/{upload}/cancel").status_code == 200
        return stored

    monkeypatch.setattr(Blobs, "put", slow)
    refused(add(app, upload, PIECES[0]), 409, "invalid_state", "status")
    assert (count(UploadPart), blobs().rooms()) == (0, [])


def test_the_same_bytes_elsewhere_stay_when_an_upload_goes(app: TestClient) -> None:
    file = app.post("/v1/files", files={"file": ("rows.jsonl", ROWS)}, data={"purpose": "fine-tune"}).json()["id"]
    upload = begun(app)
    assert add(app, upload, ROWS).status_code == 200
    app.post(f"{UPLOADS}/{upload}/cancel")
    assert app.get(f"/v1/files/{file}/content").content == ROWS


@pytest.mark.parametrize("point", crash.POINTS["upload"])
def test_a_server_that_dies_leaves_all_of_the_file_or_nothing(app: TestClient, point: str) -> None:
    upload = begun(app)
    if point == "upload.part_stored":
        die(point, lambda: add(app, upload, PIECES[0]))
        assert count(UploadPart) == 0
        ids = added(app, upload)
    else:
        ids = added(app, upload)
        die(point, lambda: complete(app, upload, ids))
    made = point == "upload.after_commit"
    assert [file["bytes"] for file in app.get("/v1/files").json()["data"]] == [len(ROWS)] * made
    assert count(UploadPart) == (0 if made else 3)
    done = complete(app, upload, ids).json()
    assert (done["status"], count(File)) == ("completed", 1)
    assert app.get(f"/v1/files/{done['file']['id']}/content").content == ROWS

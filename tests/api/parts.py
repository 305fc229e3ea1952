"""Uploads in parts, for tests: a file in three pieces, and the requests that make it whole."""

from typing import Any

import httpx
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from models.db import transaction
from models.tables import Upload
from tests.api.rows import labeled

UPLOADS = "/v1/uploads"
ROWS = labeled(400)
THIRD = len(ROWS) // 3
PIECES = [ROWS[:THIRD], ROWS[THIRD : 2 * THIRD], ROWS[2 * THIRD :]]


def announce(size: int = len(ROWS), **more: Any) -> dict[str, Any]:
    return {"bytes": size, "filename": "rows.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune", **more}


def begun(app: TestClient, **more: Any) -> str:
    response = app.post(UPLOADS, json=announce(**more))
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def add(app: TestClient, upload: str, piece: bytes, **headers: str) -> httpx.Response:
    return app.post(f"{UPLOADS}/{upload}/parts", files={"data": ("part", piece)}, headers=headers)


def added(app: TestClient, upload: str) -> list[str]:
    return [add(app, upload, piece).json()["id"] for piece in PIECES]


def complete(app: TestClient, upload: str, part_ids: list[str], **more: Any) -> httpx.Response:
    return app.post(f"{UPLOADS}/{upload}/complete", json={"part_ids": part_ids, **more})


def refused(response: httpx.Response, status: int, code: str, param: str | None) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), response.text
    assert error["hint"]
    return f"{error['message']} {error['hint']}"


def count(table: Any) -> int:
    with transaction(read_only=True) as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def set_upload(**values: Any) -> None:
    with transaction() as session:
        session.execute(update(Upload).values(**values))

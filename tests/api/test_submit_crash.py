"""An API process that dies while it accepts a job: the client sends it again, and there is one job, not two and not none."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from models import crash
from models.db import transaction
from models.queries.outbox import take_waiting
from tests.api.dying import die
from tests.api.rows import claim
from tests.api.sending import JOBS, new_world

HEADERS = {"idempotency-key": "order-1"}


@pytest.mark.parametrize("point", crash.POINTS["api"])
def test_an_order_sent_again_after_a_crash_is_one_job(app: TestClient, tmp_path: Path, point: str) -> None:
    world = new_world(app)
    order = world.order()
    die(point, lambda: app.post(JOBS, json=order, headers=HEADERS))
    before = app.get(JOBS).json()["data"]
    assert len(before) == (1 if point == "submit.after_commit" else 0), "accepted is durable, and all of it or nothing"
    answer = app.post(JOBS, json=order, headers=HEADERS)
    assert answer.status_code == 200
    [job] = app.get(JOBS).json()["data"]
    assert job["id"] == answer.json()["id"]
    if before:
        assert before[0]["id"] == job["id"]
    with transaction() as session:
        assert [rung for _, rung in take_waiting(session)] == [job["id"]]
    assert claim().job_id == job["id"]

"""Held-out rows that the adapter an order goes on from may have learned."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.ordering import created, finished, refused
from tests.api.rows import labeled, run_to_the_end, unlabeled
from tests.api.sending import JOBS, World, new_world, upload
from tests.worker.watching import events


@pytest.fixture
def world(app: TestClient) -> World:
    return new_world(app)


def test_no_job_is_judged_on_rows_its_adapter_may_have_learned(world: World) -> None:
    """Without a test file rows are held out of the labels; drawn another way, the earlier job has trained on them."""
    first = finished(world)
    order = {"from_job": first["id"], "unlabeled_file": world.unlabeled}
    assert refused(world, 400, "missing_field", **order, seed=7)["param"] == "test_file"
    as_text = {"answer": {"kind": "text"}}  # drawn evenly from other groups
    assert refused(world, 400, "missing_field", **order, semi_supervised=as_text)["param"] == "test_file"
    other = upload(world.app, labeled(14), "other.jsonl")
    assert refused(world, 400, "missing_field", **order, training_file=other)["param"] == "test_file"
    seen = upload(world.app, labeled(20), "seen.jsonl")  # its first 12 rows are the first job's labels
    fresh = upload(world.app, labeled(10, 500), "fresh.jsonl")
    error = refused(world, 400, "test_leakage", **order, training_file=fresh, test_file=seen)
    assert "12 rows" in error["message"]
    job = created(world, **order, training_file=fresh, test_file=seen, semi_supervised={"evaluation": {"on_leakage": "drop"}})
    assert any("They were dropped" in message for message in events(job["id"]))
    # Two jobs back is no further away.
    run_to_the_end()
    third = {"from_job": job["id"], "unlabeled_file": world.unlabeled, "training_file": upload(world.app, labeled(10, 600))}
    refused(world, 400, "test_leakage", **third, test_file=seen)


def test_a_long_line_of_jobs_is_compared_with_its_nearest_labeled_files_before_the_runner_reads_them_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.fine_tuning.seen.MAX_EARLIER", 2)
    job, files = finished(world), []
    for start in (500, 600, 700):
        files.append(upload(world.app, labeled(10, start)))
        order = {"from_job": job["id"], "unlabeled_file": world.unlabeled, "training_file": files[-1]}
        job = created(world, **order, test_file=upload(world.app, labeled(12, 800)))
        run_to_the_end()
    order = {"from_job": job["id"], "unlabeled_file": world.unlabeled, "training_file": upload(world.app, labeled(10, 900))}
    for near in files[1:]:
        refused(world, 400, "test_leakage", **order, test_file=near)
    created(world, **order, test_file=files[0])  # worker/semisup/start.py refuses it, as it does rows of larger files


def warned(world: World, job: str) -> list[tuple[str, int]]:
    """(code, how many rows) of each warning in the job's history."""
    found = world.app.get(f"{JOBS}/{job}/events").json()["data"]
    return [(event["data"]["code"], event["data"]["count"]) for event in reversed(found) if event["level"] == "warn"]


def called(word: bytes, rows: bytes) -> bytes:
    """The rows with other questions: `word 0`, `word 1` and so on."""
    return rows.replace(b"unlabeled", word).replace(b'"labeled', b'"' + word)


def test_held_out_rows_that_an_earlier_job_may_have_pseudo_labeled_are_told_as_within_one_job(world: World) -> None:
    first = finished(world)  # on `unlabeled 0` to `unlabeled 11`
    test = upload(world.app, called(b"unlabeled", labeled(3)) + labeled(12, 500), "test.jsonl")
    validation = upload(world.app, called(b"unlabeled", labeled(2, 3)) + labeled(12, 600), "validation.jsonl")
    new = upload(world.app, called(b"new", unlabeled()), "new.jsonl")
    second = created(world, from_job=first["id"], unlabeled_file=new, test_file=test, validation_file=validation)
    assert warned(world, second["id"]) == [("unlabeled_in_test", 3), ("unlabeled_in_validation", 2)]
    (told,) = (message for message in events(second["id"]) if "test file" in message)
    assert told.startswith("3 rows of the test file are in the unlabeled file too: u-000001 = t-000001,")
    assert "rows.jsonl of an earlier job" in told
    run_to_the_end()

    # Two jobs back is no further away. A file that is this job's own too is told of once.
    third = created(world, from_job=second["id"], unlabeled_file=new, test_file=test)
    assert warned(world, third["id"]) == [("unlabeled_in_test", 3)]
    again = created(world, from_job=first["id"], unlabeled_file=world.unlabeled, test_file=test)
    assert warned(world, again["id"]) == [("unlabeled_in_test", 3)]
    assert "earlier job" not in " ".join(events(again["id"]))
    clean = created(world, from_job=first["id"], unlabeled_file=new, test_file=upload(world.app, labeled(12, 700)))
    assert warned(world, clean["id"]) == []


def test_of_earlier_unlabeled_files_the_nearest_are_compared_as_far_as_they_are_quickly_read(
    world: World, configure: Any
) -> None:
    first = finished(world)
    second = created(world, from_job=first["id"], unlabeled_file=upload(world.app, called(b"near", unlabeled(24))))
    run_to_the_end()
    test = upload(world.app, called(b"unlabeled", labeled(2)) + called(b"near", labeled(3)) + labeled(4, 700))
    order = {"from_job": second["id"], "unlabeled_file": upload(world.app, called(b"new", unlabeled())), "test_file": test}
    assert warned(world, created(world, **order)["id"]) == [("unlabeled_in_test", 3), ("unlabeled_in_test", 2)]
    configure(inline_validation_bytes=600)  # 24 near rows are 470 bytes, 12 rows of the first job 290
    assert warned(world, created(world, **order)["id"]) == [("unlabeled_in_test", 3)]

"""What a finished job shows beneath itself: rounds, stages, samples, checkpoints, artefacts."""

import hashlib
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.db import transaction
from models.queries import leases, stages
from tests.api.rows import SELECTED, WEIGHTS, claim, reported, run_to_the_end
from tests.api.sending import JOBS, World, new_world


@pytest.fixture
def world(app: TestClient) -> World:
    return new_world(app)


def ordered(world: World) -> str:
    response = world.app.post(JOBS, json=world.order())
    assert response.status_code == 200, response.text
    return f"{JOBS}/{response.json()['id']}"


def listed(world: World, path: str) -> list[Any]:
    response = world.app.get(path)
    assert response.status_code == 200, response.text
    return list(response.json()["data"])


def all_pages(world: World, path: str) -> list[str]:
    """Ids of the whole list, page after page, as has_more and last_id lead."""
    ids: list[str] = []
    page = world.app.get(path).json()
    while True:
        ids += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            return ids
        page = world.app.get(f"{path}&after={page['last_id']}").json()


def test_samples_come_in_upload_order_and_by_round(world: World) -> None:
    job = ordered(world)
    run_to_the_end(samples=12, rounds=2)
    everything = [f"{round}:u-{i:06d}" for round in (1, 2) for i in range(12)]
    assert all_pages(world, f"{job}/samples?limit=5") == everything
    assert all_pages(world, f"{job}/samples?round=2&limit=12") == everything[12:]
    assert all_pages(world, f"{job}/samples?round=1&verdict=selected&limit=4") == everything[:12:2]


def test_samples_come_by_confidence_and_unscored_rows_last(world: World) -> None:
    job = ordered(world)
    run_to_the_end(samples=12, rounds=1)
    falling = [f"1:u-{i:06d}" for i in range(12) if i != 4]  # mean_nll falls with the row number
    assert all_pages(world, f"{job}/samples?order=-mean_nll&limit=5") == [*falling, "1:u-000004"]
    assert all_pages(world, f"{job}/samples?order=mean_nll&limit=5") == [*falling[::-1], "1:u-000004"]
    assert all_pages(world, f"{job}/samples?min_mean_nll=9.5&max_mean_nll=9.9&limit=2") == [
        f"1:u-{i:06d}" for i in (1, 2, 3, 5)
    ]


def test_a_sample_shows_its_evidence_by_query_id_or_list_id(world: World) -> None:
    job = ordered(world)
    run_to_the_end(samples=3, rounds=2)
    last = world.app.get(f"{job}/samples/u-000001").json()
    assert (last["round"], last["verdict"], last["reason"], last["mean_nll"]) == (2, "rejected", "above_cut", 9.9)
    assert last["votes"][0]["collaborator"] == "a"
    assert last["neighbours"] == [["l-000001", 0.9]]
    assert world.app.get(f"{job}/samples/u-000001?round=1").json()["id"] == "1:u-000001"
    assert world.app.get(f"{job}/samples/1:u-000001").json()["round"] == 1
    gone = world.app.get(f"{job}/samples/u-000009")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "sample_not_found")


@pytest.mark.parametrize("cursor", ["x", "1:u-999999", "99999:u-000001", ":", "1:"])
def test_a_sample_cursor_must_exist(world: World, cursor: str) -> None:
    job = ordered(world)
    run_to_the_end(samples=3, rounds=1)
    error = world.app.get(f"{job}/samples?after={cursor}").json()["error"]
    assert (error["code"], error["param"]) == ("invalid_cursor", "after")


def test_rounds_and_stages_show_their_numbers(world: World) -> None:
    job = ordered(world)
    run_to_the_end(rounds=2)
    first, second = listed(world, f"{job}/rounds")
    assert (first["number"], first["selected"], first["threshold"], first["steps"]) == (1, 6, 9.4, 10)
    assert second["number"] == 2
    shown = {stage["name"]: stage for stage in listed(world, f"{job}/stages")}
    assert list(shown)[:3] == ["round-1/propagate", "round-1/select", "round-1/evolve"]
    propagate = shown["round-1/propagate"]
    assert (propagate["status"], propagate["chunks"], propagate["chunks_done"], propagate["items"]) == ("open", 2, 0, 12)
    assert (shown["round-2/evolve"]["status"], shown["round-2/evolve"]["seconds"]) == ("done", 0.5)


def test_a_round_shows_what_the_report_says_of_it_beside_its_selection_and_its_training(world: World) -> None:
    job = ordered(world)
    run_to_the_end(samples=12, rounds=2)
    shown = listed(world, f"{job}/rounds")
    for number, made in enumerate(shown, start=1):
        said = reported(number, rounds=2, samples=12)
        assert said.pop("round") == made.pop("number")
        own = {"threshold": 9.4, "train_loss": 0.25, "steps": 10 * number, "trained_tokens": 500}
        assert made.pop("created_at") > 0
        assert made == {"object": "fine_tuning.job.round", **said, **own}
    assert [made["taken"] for made in shown] == [False, True]


def test_a_round_shows_its_selection_before_there_is_a_report(world: World) -> None:
    job = ordered(world)
    lease = claim()
    selection = {"samples": [], "threshold": 9.4, **SELECTED}
    with transaction() as session:
        stages.commit_stage(session, lease, "round-1/select", {"type": "Selection", "files": {}}, selection, 0.5)
    (made,) = listed(world, f"{job}/rounds")
    assert (made["selected"], made["threshold"]) == (6, 9.4)
    assert "pool" not in made


def test_a_job_without_unlabeled_rows_shows_its_training_as_its_one_round(world: World) -> None:
    order = {"model": "semift-small", "training_file": world.labeled}
    job = f"{JOBS}/{world.app.post(JOBS, json=order).json()['id']}"
    run_to_the_end(rounds=0)
    (made,) = listed(world, f"{job}/rounds")
    assert {name: made[name] for name in made if name not in ("object", "number", "created_at")} == {
        "train_loss": 0.25,
        "steps": 10,
        "trained_tokens": 500,
    }


def test_the_running_stage_shows_its_steps_and_chunks(world: World) -> None:
    job = ordered(world)
    lease = claim()
    progress = {"phase": "propagating", "stage": "round-1/propagate", "step": 5, "total": 9, "percent": 40.0, "round": 1}
    with transaction() as session:
        stages.open_stage(session, lease, "round-1/propagate", 2, 12)
        assert stages.claim_chunk(session, lease, "round-1/propagate").chunk == 0
        stages.commit_chunk(session, lease, "round-1/propagate", 0, {"type": "Ballot", "files": {}}, 0.1)
        leases.heartbeat(session, lease, progress)
    stage = listed(world, f"{job}/stages")[0]
    assert (stage["chunks_done"], stage["step"], stage["total"]) == (1, 5, 9)
    shown = world.app.get(job).json()
    assert (shown["phase"], shown["progress"]["percent"], shown["progress"]["rounds"]) == ("propagating", 40.0, 1)
    with transaction() as session:
        leases.heartbeat(session, lease, {**progress, "stage": "labels-only", "round": None})
    assert world.app.get(job).json()["progress"]["round"] is None


def test_artefacts_are_listed_downloaded_and_are_files_too(world: World) -> None:
    job = ordered(world)
    run_to_the_end()
    found = {artifact["path"]: artifact for artifact in listed(world, f"{job}/artifacts")}
    weights = found["adapter/adapter_model.safetensors"]
    assert (weights["bytes"], weights["sha256"]) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    response = world.app.get(f"{job}/artifacts/adapter/adapter_model.safetensors")
    assert response.content == WEIGHTS
    assert response.headers["etag"] == f'"{weights["sha256"]}"'
    assert world.app.get(f"/v1/files/{weights['file_id']}/content").content == WEIGHTS
    report = world.app.get(f"{job}/artifacts/report.md")
    assert (report.text, report.headers["content-type"]) == ("# Report\n", "text/markdown; charset=utf-8")
    for path in ("nothing", "..%2F..%2Fetc%2Fpasswd", ""):
        assert world.app.get(f"{job}/artifacts/{path}").status_code == 404


def test_a_job_without_results_has_empty_lists(world: World) -> None:
    job = ordered(world)
    for name in ("checkpoints", "rounds", "stages", "samples", "artifacts"):
        body = world.app.get(f"{job}/{name}").json()
        assert body == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    "name", ["", "/events", "/checkpoints", "/rounds", "/stages", "/samples", "/artifacts", "/artifacts/x", "/samples/x"]
)
def test_beneath_no_job_there_is_nothing(app: TestClient, name: str) -> None:
    response = app.get(f"{JOBS}/ftjob-0{name}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "job_not_found")

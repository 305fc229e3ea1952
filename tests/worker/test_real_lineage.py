"""Forks and continued jobs through the service with the real algorithm: API, supervisor, runner."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from models.blobs import blobs
from models.tables import Chunk, SampleRow, Stage
from tests.keys import AUTH
from tests.rows import get_job
from tests.worker.test_real_job import SPEC, WORDS
from tests.worker.watching import result, rows
from worker.supervisor import Supervisor

JOBS = "/v1/fine_tuning/jobs"
QUESTIONS = [
    (f"what colour is the {thing} number {n}", colour) for n in range(5) for colour in WORDS for thing in WORDS[colour]
]
SETTINGS = {**SPEC, "selection": {"strategy": "percentile", "theta": 60.0}, "evaluation": {"with_neighbours": False}}


def jsonl(pairs: list[tuple[str, str]], labels: bool) -> bytes:
    return "\n".join(json.dumps({"text": t, "label": c} if labels else {"text": t}) for t, c in pairs).encode()


@pytest.fixture
def app(sqlite: str, configure: Callable[..., None]) -> TestClient:
    configure(threads=1, base_lms=json.dumps({"tiny": "bundled:1"}))
    return TestClient(create_app(), headers=AUTH)


@pytest.fixture
def run(app: TestClient) -> Callable[..., str]:
    def go(**body: Any) -> str:
        response = app.post(JOBS, json=body)
        assert response.status_code == 200, response.text
        Supervisor(name="w1").work()
        job = str(response.json()["id"])
        assert get_job(job).status == "succeeded", get_job(job).error
        return job

    return go


@pytest.fixture
def upload(app: TestClient) -> Callable[..., str]:
    def send(name: str, pairs: list[tuple[str, str]], labels: bool = True) -> str:
        made = app.post("/v1/files", files={"file": (name, jsonl(pairs, labels))}, data={"purpose": "fine-tune"})
        return str(made.json()["id"])

    return send


@pytest.fixture
def order(upload: Callable[..., str]) -> dict[str, Any]:
    semi = {
        "unlabeled_file": upload("unlabeled.jsonl", QUESTIONS[24:36], False),
        "test_file": upload("test.jsonl", QUESTIONS[36:48]),
        **SETTINGS,
    }
    return {"model": "tiny", "training_file": upload("labeled.jsonl", QUESTIONS[:24]), "semi_supervised": semi}


def artefact(job: str, path: str) -> Any:
    files = {found[0]: found[1] for found in result(job)["artifacts"]}
    with blobs().open(files[path]) as file:
        return json.load(file)


def outcome(job: str) -> dict[str, Any]:
    """What must not depend on whether stages were taken over: weights, samples, numbers."""
    found, report = result(job), artefact(job, "report.json")
    for said in ("seconds", "notes"):
        report.pop(said)
    weights = {path: sha256 for path, sha256, _ in found["artifacts"] if path.endswith((".safetensors", ".jsonl"))}
    stages = {name: made for name, made in found["stages"].items() if name not in ("report", "artifacts")}
    kept = {name: found[name] for name in ("samples", "rounds", "checkpoints")}
    kept["chunks"] = sorted(json.dumps(chunk, sort_keys=True) for chunk in found["chunks"])
    return {**kept, "stages": stages, "weights": weights, "report": report}


def runs(job: str, stage: str) -> list[int]:
    return [chunk.runs for chunk in rows(Chunk, job, Chunk.number) if chunk.stage == stage]


@pytest.mark.slow
def test_a_fork_ends_like_its_job_or_like_a_fresh_one_with_its_settings(run: Callable[..., str], order: dict[str, Any]) -> None:
    first = run(**order)
    same = run(fork={"job": first})
    assert outcome(same) == outcome(first)
    assert {chunk.runs for chunk in rows(Chunk, same)} == {0}
    made_again = {stage.name for stage in rows(Stage, same) if stage.taken_from is None}
    assert made_again == {"report", "artifacts"}
    taken = len(rows(Stage, same)) - len(made_again)
    assert artefact(same, "report.json")["notes"][-1] == f"{taken} stages taken over from {first}."

    selection = {"strategy": "percentile", "theta": 30.0}
    other = run(fork={"job": first}, semi_supervised={"selection": selection})
    fresh = run(**{**order, "semi_supervised": {**order["semi_supervised"], "selection": selection}})
    assert outcome(other) == outcome(fresh)
    assert set(runs(other, "round-1/propagate")) == {0}, "no vote was cast a second time"
    assert set(runs(fresh, "round-1/propagate")) == {1}
    again = {stage.name for stage in rows(Stage, other) if stage.taken_from is None}
    assert {"round-1/select", "round-1/evolve"} <= again
    assert again.isdisjoint({"round-1/warmup", "round-1/propagate", "round-1/agree", "arms/vanilla"})
    assert outcome(other)["samples"] != outcome(first)["samples"]


@pytest.mark.slow
def test_a_job_goes_on_from_the_adapter_of_an_earlier_one_with_new_unlabeled_rows(
    run: Callable[..., str], order: dict[str, Any], upload: Callable[..., str]
) -> None:
    short = {**SETTINGS, "evaluation": SPEC["evaluation"]}
    first = run(**{**order, "semi_supervised": {**order["semi_supervised"], **short}})
    semi = {"unlabeled_file": upload("new.jsonl", QUESTIONS[48:60], False), **short}
    second = run(model=get_job(first).adapter_name, semi_supervised=semi)
    assert (get_job(second).from_job, get_job(second).test_file) == (first, get_job(first).test_file)
    before, after = (artefact(job, "adapter/lineage.json") for job in (first, second))
    assert (before["start_sha256"], after["start_sha256"]) == (None, before["adapter_sha256"])
    note = f"Training went on from the adapter of {first} (sha256 {before['adapter_sha256']})."
    assert note in artefact(second, "report.json")["notes"]
    ours, theirs = result(first)["stages"], result(second)["stages"]
    asked = [[sample.prompt for sample in rows(SampleRow, job)] for job in (first, second)]
    assert [set(prompts) for prompts in asked] == [{text for text, _ in part} for part in (QUESTIONS[24:36], QUESTIONS[48:60])]
    assert ours["round-1/own-neighbours"] == theirs["round-1/own-neighbours"]
    assert ours["round-1/warmup"] != theirs["round-1/warmup"]
    fork = run(fork={"job": second})
    assert outcome(fork)["weights"] == outcome(second)["weights"]

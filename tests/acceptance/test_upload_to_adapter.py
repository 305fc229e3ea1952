"""From two uploads to a loaded adapter, with nothing but the stock `openai` client: real API, real worker, real LM.

The same test on SQLite with the filesystem broker and on PostgreSQL with Redis.
"""

import json
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.keys import AUTH, KEY
from worker.app import WORKER_ARGS

COLOURS = {"red": ("rose", "blood", "fire", "cherry", "ruby", "brick"), "blue": ("sea", "sky", "ice", "navy", "whale", "jeans")}
SPEC = {
    "hyperparameters": {"trainable": "lora", "batch_size": 8},
    "warmup": {"n_epochs": 16},
    "evolve": {"n_epochs": 3},
    "propagation": {"k": 2, "chunk_size": 8},
    "calibration": {"folds": 2},
    "rounds": 2,
    "patience": 0,  # no stop before the second one
}


def question(thing: str, n: int) -> str:
    return f"what colour is the {thing} in picture {n}"


def csv_rows(n: int, labels: bool) -> bytes:
    rows = [(question(thing, n), colour) for colour, things in COLOURS.items() for thing in things]
    lines = [f"{text},{colour}" if labels else text for text, colour in rows]
    return "\n".join(["text,label" if labels else "text", *lines]).encode()


@pytest.fixture
def client(stack, configure) -> openai.OpenAI:
    configure(lease_seconds=60, threads=1, base_lms=json.dumps({"tiny": "bundled:1"}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--port", str(port), "--log-level", "warning", "--timeout-keep-alive", "120")  # longer than clients keep one
    stack.spawn("uvicorn", "--factory", "api.main:create_app", *options)
    stack.spawn("celery", *WORKER_ARGS)
    deadline = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60):
                break
        except OSError:
            assert time.monotonic() < deadline, stack.logs()
            time.sleep(0.2)
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def get(client: openai.OpenAI, path: str) -> Any:
    return client.get(path, cast_to=object)


@pytest.mark.slow
def test_two_uploads_in_an_evolved_adapter_out(client, stack, tmp_path):
    labeled, unlabeled, test = (
        client.files.create(file=(name, content), purpose="fine-tune")
        for name, content in (
            ("labeled.csv", csv_rows(1, True)), ("unlabeled.csv", csv_rows(2, False)), ("test.csv", csv_rows(3, True)),
        )
    )  # fmt: skip
    for file in (labeled, unlabeled, test):
        assert client.files.wait_for_processing(file.id, poll_interval=0.1).status == "processed"

    block = {"unlabeled_file": unlabeled.id, "test_file": test.id, **SPEC}
    method: Any = {"type": "semi_supervised", "semi_supervised": block}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=labeled.id, method=method, suffix="colours", seed=7)
    assert job.status in ("queued", "running")
    deadline = time.monotonic() + 480
    while job.status in ("queued", "running"):
        assert time.monotonic() < deadline, stack.logs()
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", f"{job.error}\n{stack.logs()}"

    # what the stock client shows
    assert job.fine_tuned_model
    assert job.fine_tuned_model.startswith("ft:tiny:")
    assert job.trained_tokens
    assert [found.id for found in client.fine_tuning.jobs.list(limit=1)] == [job.id]
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))  # pages of two, followed to the end
    assert len(events) > 4
    assert len({event.id for event in events}) == len(events)
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [checkpoint.step_number > 0 for checkpoint in checkpoints] == [True, True]
    assert job.fine_tuned_model in {model.id for model in client.models.list()}
    assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model

    # what ours shows beneath
    rounds = get(client, f"/fine_tuning/jobs/{job.id}/rounds")["data"]
    assert [made["number"] for made in rounds] == [1, 2]
    stages = {found["name"] for found in get(client, f"/fine_tuning/jobs/{job.id}/stages")["data"]}
    assert {"round-2/cross-fit/fold-0/evolve", "round-2/cross-fit/fold-1/evolve"} <= stages
    for made in rounds:  # the second one labels every row again
        samples = get(client, f"/fine_tuning/jobs/{job.id}/samples?round={made['number']}&limit=100")["data"]
        assert len(samples) == 12
        assert all(len(s["votes"]) == 4 and s["neighbours"] and s["reason"] for s in samples)
        selected = [s for s in samples if s["verdict"] == "selected"]
        assert len(selected) == made["selected"] > 0
    artefacts = {a["path"]: a for a in get(client, f"/fine_tuning/jobs/{job.id}/artifacts")["data"]}
    assert {"report.json", "report.md", "selected.jsonl", "adapter/adapter_model.safetensors", "adapter/lineage.json"} <= set(
        artefacts
    )
    downloads = {client.files.retrieve(file).filename: client.files.content(file).read() for file in job.result_files}
    report = json.loads(downloads["report.json"])
    arms = {arm["name"] for arm in report["arms"]}
    assert {"vanilla", "knn_vote", "classifier", "labels_only_early", "labels_only_matched", "evolved"} <= arms
    assert len(content(client, job.id, "selected.jsonl").splitlines()) == len(selected)
    for made, said in zip(rounds, report["rounds"], strict=True):
        assert said.pop("round") == made["number"]
        assert made.items() >= said.items()
        assert (made["pool"], set(made["class_shares"]["labeled"])) == (12, set(COLOURS))
        assert made["reliability"]["judged"] > 0
    (told,) = (event for event in events if event.message == report["summary"])
    assert told.level == ("warn" if report["guard"]["reason"] == "worse" else "info")

    # the adapter loads where others load it, on the base it was trained on
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in (p for p in artefacts if p.startswith("adapter/")):
        (folder / Path(path).name).write_bytes(content(client, job.id, path))
    base = next((tmp_path / "data").rglob("bundled-1"))
    network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    assert any("lora" in name for name, _ in network.named_parameters())

    # and it can be taken away again
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(job.fine_tuned_model)
    for file in (labeled, unlabeled, test):
        assert client.files.delete(file.id).deleted


def content(client: openai.OpenAI, job: str, path: str) -> bytes:
    asked = urllib.request.Request(f"{client.base_url}fine_tuning/jobs/{job}/artifacts/{path}", headers=AUTH)
    with urllib.request.urlopen(asked, timeout=120) as answer:
        return answer.read()

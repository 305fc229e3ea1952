"""Jobs whose collaborators are different networks, through the whole service: API, worker, runner, an engine over HTTP."""

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.db import transaction
from models.queries import leases
from models.settings import settings
from models.tables import Chunk
from tests.conftest import Stack
from tests.engine_stub import EngineStub, engine_stub, mean_nll
from tests.engine_stub import colour as colour_of
from tests.keys import AUTH
from tests.rows import add_file, add_job, get_job, set_job
from tests.serving import serving
from tests.worker.fake_runner import spec_for
from tests.worker.test_real_job import children
from tests.worker.watching import chunk_runs, events, rows, wait_until
from tests.worker.working import work
from worker.app import WORKER_ARGS
from worker.desk import Desk

KEY = "sk-engine-secret-1234"
JOBS = "/v1/fine_tuning/jobs"
COLOURS = ("red", "blue")
SPEC = {
    "answer": {"kind": "label", "labels": list(COLOURS)},
    "hyperparameters": {"batch_size": 8},
    "warmup": {"n_epochs": 2},
    "evolve": {"n_epochs": 1},
    "selection": {"strategy": "all"},
    "resolve": {"resolver": "vote"},
    "calibration": {"mode": "off"},  # what engines are asked is counted here: unlabeled rows alone
    "evaluation": {"baselines": False, "with_neighbours": False},
}


def text(number: int) -> str:
    return f"item {number} is painted {COLOURS[number % 2]}"


def csv(first: int, count: int, labels: bool) -> bytes:
    lines = [f"{text(n)},{COLOURS[n % 2]}" if labels else text(n) for n in range(first, first + count)]
    return "\n".join(["text,label" if labels else "text", *lines]).encode()


class Service:
    def __init__(self, client: httpx.Client, stack: Stack, worker: int) -> None:
        self.client, self.stack, self.worker = client, stack, worker

    def order(self, *collaborators: dict[str, Any], **propagation: Any) -> str:
        """A job on 16 labeled and 12 unlabeled rows."""
        block = {"collaborators": collaborators, "k": 2, "chunk_size": 4, "max_new_tokens": 3, **propagation}
        labeled, unlabeled = self.upload("labeled.csv", csv(0, 16, True)), self.upload("unlabeled.csv", csv(100, 12, False))
        semi = {"unlabeled_file": unlabeled, **SPEC, "propagation": block}
        return self.submit(model="tiny", training_file=labeled, semi_supervised=semi)

    def upload(self, name: str, content: bytes) -> str:
        made = self.client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})
        return str(made.json()["id"])

    def submit(self, **body: Any) -> str:
        response = self.client.post(JOBS, json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def get(self, path: str) -> Any:
        return self.client.get(f"{JOBS}/{path}").json()

    def ended(self, job: str, status: str = "succeeded") -> Any:
        over = ("succeeded", "failed", "cancelled")
        wait_until(lambda: self.get(job)["status"] in over, 600, lambda: f"{self.get(job)}\n{self.stack.logs()}")
        found = self.get(job)
        assert found["status"] == status, f"{found['error']}\n{self.stack.logs()}"
        return found

    def votes(self, job: str) -> dict[str, dict[str, dict[str, Any]]]:
        """prompt -> collaborator -> vote, as GET …/samples shows them; every collaborator voted once on every row."""
        samples = self.get(f"{job}/samples?limit=100")["data"]
        assert len(samples) == 12
        shown = {}
        for sample in samples:
            by_name = {vote["collaborator"]: vote for vote in sample["votes"]}
            assert len(by_name) == len(sample["votes"])
            shown[sample["prompt"]] = by_name
        return shown


@pytest.fixture
def stub() -> Iterator[EngineStub]:
    with engine_stub() as made:
        yield made


@pytest.fixture
def service(embedded: Stack, configure: Callable[..., None], stub: EngineStub, monkeypatch: Any) -> Iterator[Service]:
    monkeypatch.setenv("STUB_KEY", KEY)
    engine = {"url": stub.url, "model": "stub-lm", "api_key_env": "STUB_KEY", "retries": 2, "timeout_s": 600}
    lms = {"tiny": "bundled:1", "tiny-2": "bundled:2"}
    configure(lease_seconds=60, threads=1, base_lms=json.dumps(lms), engines=json.dumps({"stub": engine}))
    with serving() as url, httpx.Client(base_url=url, headers=AUTH, timeout=120) as client:
        yield Service(client, embedded, embedded.spawn("celery", *WORKER_ARGS).pid)


OWN, REMOTE = {"name": "local", "temperature": 0.0}, {"name": "remote", "engine": "stub", "temperature": 0.5}


@pytest.mark.slow
def test_samples_show_what_each_of_two_networks_voted_though_the_engine_failed_on_the_way(
    service: Service, stub: EngineStub, tmp_path: Path
) -> None:
    looked = threading.Event()
    stub.say = lambda messages, seed: (looked.wait(300), colour_of(messages, seed))[1]
    job = service.order(OWN, REMOTE)
    wait_until(lambda: stub.asked, 240, service.stack.logs)
    at_work = children(service.worker)
    assert at_work
    for runner in at_work:
        for name in ("environ", "cmdline"):
            seen = Path(f"/proc/{runner}/{name}").read_bytes()
            assert KEY.encode() not in seen
            assert stub.url.encode() not in seen
    # One fault of each kind that is tried again, then one engine that stays away for longer than we wait: a whole attempt.
    stub.fail("limited", None, "half", None, "reset", None, "other_json", *["broken"] * 12)
    looked.set()
    found = service.ended(job)

    shown = service.votes(job)
    for prompt, votes in shown.items():
        assert list(votes) == ["local", "remote"]
        colour = "red" if "red" in prompt else "blue"
        remote = votes["remote"]
        assert (remote["response"], remote["answer"], remote["error"], remote["scored"]) == (colour, colour, None, True)
        assert remote["mean_nll"] == pytest.approx(mean_nll(colour))
        assert votes["local"]["tokens"] > 0
    assert any(v["local"]["response"] != v["remote"]["response"] for v in shown.values()), "they are different networks"
    assert {chunk.runs for chunk in rows(Chunk, job)} == {1}
    assert len(set(stub.answered)) == 12
    assert sum("status 500: out of GPUs" in event for event in events(job)) >= 1, "the attempt that ended is told"
    assert {a.headers["authorization"] for a in stub.asked} == {f"Bearer {KEY}"}

    # the key is nowhere but in the worker's own environment
    wait_until(lambda: not list((settings().data_dir / "scratch").iterdir()))  # a moment after its job, the worker clears up
    logs = {path.name: path.read_bytes() for path in tmp_path.glob("*.log")}
    kept = {str(path): path.read_bytes() for path in settings().data_dir.rglob("*") if path.is_file()}
    assert len(kept) > 20
    assert [name for name, content in (logs | kept).items() if KEY.encode() in content] == []

    # the finished model, and another base LM, vote in the next job
    second = service.order(
        OWN,
        {"name": "before", "adapter": found["fine_tuned_model"], "temperature": 0.0},
        {"name": "deeper", "lm": "tiny-2"},
        REMOTE,  # two epochs teach the tiny LMs no colour: somebody has to say something readable
    )
    service.ended(second)
    after = service.votes(second)
    assert {tuple(votes) for votes in after.values()} == {("local", "before", "deeper", "remote")}
    assert any(votes["local"]["mean_nll"] != votes["before"]["mean_nll"] for votes in after.values())
    assert any(votes["local"]["response"] != votes["deeper"]["response"] for votes in after.values())


@pytest.mark.slow
def test_a_cancel_is_heard_while_an_engine_takes_its_time_and_a_refusal_fails_the_job(
    service: Service, stub: EngineStub
) -> None:
    stub.seconds = 3600
    job = service.order(REMOTE)
    wait_until(lambda: stub.asked, 240, service.stack.logs)
    assert service.client.post(f"{JOBS}/{job}/cancel").status_code == 200
    service.ended(job, "cancelled")

    stub.seconds = 0
    stub.fail(*["unauthorised"] * 4)
    job = service.order(REMOTE)
    error = service.ended(job, "failed")["error"]
    assert error["code"] == "engine_refused"
    assert error["message"] == "The engine 'stub' refused: status 401: wrong key Bearer *** ask Ann"


APART = 9  # what the two engine votes do not agree on: this number and the next one


def sum_asked(number: int) -> tuple[str, int]:
    return f"How much are {number} and 4?", number + 4


def briefly(number: int) -> str:
    return f"{number} and 4 make {number + 4}.\n#### {number + 4}"


def at_length(number: int) -> str:
    return f"Counting upwards: {number} followed by another 4 gives {number + 4}.\n#### {number + 4}"


def reasoned(messages: list[dict[str, str]], _seed: int) -> str:
    """The one that is shown no examples is brief, and so the surer one, on odd numbers; the other one on even numbers."""
    number, _ = map(int, re.findall(r"\d+", messages[-1]["content"]))
    alone = len(messages) == 1
    said = briefly(number) if alone == bool(number % 2) else at_length(number)
    return said.replace(f"#### {number + 4}", f"#### {number + 5}") if alone and number == APART else said


def sums(numbers: range, labels: bool) -> bytes:
    rows = [{"question": sum_asked(n)[0]} | ({"answer": briefly(n)} if labels else {}) for n in numbers]
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.mark.slow
def test_the_whole_reasoning_of_the_surest_vote_that_gave_the_number_is_the_pseudo_response(
    service: Service, stub: EngineStub
) -> None:
    stub.say = reasoned
    shown, alone = REMOTE | {"name": "shown"}, REMOTE | {"name": "alone", "k": 0, "temperature": 1.0}
    asked = range(4, 16)
    semi = {
        **SPEC,
        "unlabeled_file": service.upload("unlabeled.jsonl", sums(asked, False)),
        "answer": {"kind": "number"},
        "propagation": {"collaborators": [OWN, shown, alone], "k": 2, "chunk_size": 4, "max_new_tokens": 8},
    }
    labeled = service.upload("labeled.jsonl", sums(range(20, 36), True))
    job = service.submit(model="tiny", training_file=labeled, semi_supervised=semi)
    service.ended(job)
    # Two epochs teach the tiny LM no sums: without its vote there is agreement. Its warm-up is taken over.
    engines = {"propagation": {"collaborators": [shown, alone]}}
    fork = service.submit(fork={"job": job}, semi_supervised=engines)
    assert "round-1/warmup" in service.ended(fork)["fork"]["taken_over"]

    for made, names in ((job, ["local", "shown", "alone"]), (fork, ["shown", "alone"])):
        samples = {sample["prompt"]: sample for sample in service.get(f"{made}/samples?limit=100")["data"]}
        assert len(samples) == len(asked)
        for number in asked:
            question, result = sum_asked(number)
            sample = samples[question]
            votes = {vote["collaborator"]: vote for vote in sample["votes"]}
            assert list(votes) == names
            assert all(votes[name]["mean_nll"] == pytest.approx(mean_nll(votes[name]["response"])) for name in names[-2:])
            if number == APART:
                assert {votes["shown"]["answer"], votes["alone"]["answer"]} == {str(result), str(result + 1)}
                assert sample["resolved_by"] == "vote"
                continue
            surest = min((votes["shown"], votes["alone"]), key=lambda vote: vote["mean_nll"])
            assert surest["collaborator"] == ("alone" if number % 2 else "shown")
            assert (votes["shown"]["answer"], votes["alone"]["answer"]) == (str(result), str(result))
            assert (sample["pseudo_response"], sample["pseudo_label"]) == (briefly(number), str(result))
            assert sample["pseudo_response"] == surest["response"]
            assert sample["resolved_by"] == ("agreement" if made == fork else "vote")


def test_an_engine_that_stays_away_ends_the_job_only_after_attempts_without_progress_and_keeps_its_chunks(
    sqlite: str, tmp_path: Path
) -> None:
    spec = spec_for(tmp_path, fault="engine")
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    while get_job(job).status == "queued":
        work()
        set_job(job, next_attempt_at=None)
    error = get_job(job).error
    assert error
    assert (error["code"], error["param"]) == ("engine_unavailable", "propagation.collaborators")
    assert error["message"] == "The engine 'big' gives no whole answer: status 503: no GPU left"
    assert chunk_runs(job) == [1, 1, 1, 0, 0, 0]
    again = Counter(event.partition(":")[0] for event in events(job))
    assert again["Back in the queue"] == settings().max_attempts, "the first attempt made progress and is not counted"


def test_ticks_from_inside_a_chunk_are_signs_of_life_and_leave_the_progress_in_chunks(sqlite: str, tmp_path: Path) -> None:
    job = add_job()
    with transaction() as session:
        lease = leases.claim_job(session, "w1")
    assert lease
    desk = Desk(lease, tmp_path)
    desk.answer({"ask": "open", "stage": "round-1/propagate", "chunks": 3, "items": 12})
    desk.take_progress()
    desk.answer({"tell": "progress", "stage": "round-1/propagate", "step": 3, "total": 4, "metrics": {}})
    assert desk.take_progress() == (None, None)
    desk.answer({"tell": "progress", "stage": "round-1/warmup", "step": 3, "total": 4, "metrics": {}})
    progress, _ = desk.take_progress()
    assert progress
    assert (progress["step"], get_job(job).status) == (3, "running")


def test_no_order_lies_on_the_disk(sqlite: str, tmp_path: Path, configure: Callable[..., None], monkeypatch: Any) -> None:
    """While a runner works, its order is in two pipes and nowhere else."""
    monkeypatch.setenv("STUB_KEY", KEY)
    configure(engines=json.dumps({"stub": {"url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "STUB_KEY"}}))
    seen = tmp_path / "environment.json"
    collaborators = [{"name": "a", "engine": "stub"}]
    spec = spec_for(tmp_path, environment=str(seen)) | {"propagation": {"chunk_size": 1, "collaborators": collaborators}}
    job = add_job(spec=spec, unlabeled_file=add_file(b"{}"))
    work()
    assert get_job(job).status == "succeeded"
    assert KEY not in seen.read_text()
    assert os.environ["STUB_KEY"] == KEY
    kept = [path for path in settings().data_dir.rglob("*") if path.is_file()]
    assert [path for path in kept if KEY.encode() in path.read_bytes()] == []

"""Collaborators that are different networks: each votes with its own, each network is loaded once a chunk, no vote moves."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.engine_stub import EngineStub, engine_stub, mean_nll
from tests.semisup.builders import examples, queries
from worker.semisup import __main__ as command
from worker.semisup.answers import Answers
from worker.semisup.data import Adapter, Ballot, Neighbours, Vote
from worker.semisup.engines import client
from worker.semisup.errors import EngineAway, LmNotFound, SpecError
from worker.semisup.keep import DirectoryKeep, MemoryKeep, decode, file_sha256
from worker.semisup.lm import Lab
from worker.semisup.outside import Outside, open_outside
from worker.semisup.spec import LoraSpec, Propagation, load_spec
from worker.semisup.stages.propagate import KINDS, Context, propagate, scored

LABELED = examples("l", 8)
POOL = queries("u", 6)
NEAR = Neighbours({q.id: ("l-000000", "l-000001", "l-000002") for q in POOL}, {q.id: (0.9, 0.8, 0.7) for q in POOL})


@pytest.fixture(scope="session")
def other_lm(llama: str, cache: Path) -> str:
    """The same weights under another chat template: another LM as far as its prompts go."""
    folder = cache / "other-llama"
    shutil.copytree(llama, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} said {{ m.content }} . {% endfor %}then"
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tuned(lab: Lab) -> Adapter:
    """A LoRA adapter with weights large enough to be heard."""
    with lab.training(None, "lora", LoraSpec(r=4, alpha=8)) as network:
        torch.manual_seed(1)
        for name, weights in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.5)
        folder, sha256 = lab.save(network, "lora")
    return Adapter(folder, "lora", sha256, 1, 1, 0.0)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineStub]:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    with engine_stub() as made:
        yield made


@pytest.fixture
def outside(stub: EngineStub, other_lm: str, tuned: Adapter) -> Iterator[Outside]:
    engines = {
        "big": {"url": stub.url, "model": "m"},
        "mute": {"url": stub.url, "model": "m", "logprobs": False},
        "away": {"url": "http://127.0.0.1:9/v1", "model": "m", "retries": 1},
    }
    adapters = {"ft:mine": {"base": "tiny-llama", "path": tuned.path, "sha256": tuned.sha256}}
    with open_outside({"lms": {"other": other_lm}, "adapters": adapters, "engines": engines}) as made:
        yield made


Make = Callable[..., Context]


@pytest.fixture
def context(lab: Lab, outside: Outside) -> Make:
    def make(*collaborators: dict[str, Any], lab: Lab = lab, adapter: Adapter | None = None, **changes: Any) -> Context:
        lab.outside = outside
        spec = Propagation.model_validate({"k": 2, "max_new_tokens": 4, "collaborators": collaborators, **changes})
        answers = Answers("label", ("red", "blue"))
        labeled = {e.id: e for e in LABELED}
        return Context(lab, adapter, labeled, NEAR, answers, spec, None, max_length=128, max_new_tokens=4, seed=3)

    return make


def votes_of(ballots: list[Ballot], name: str) -> list[Vote]:
    return [vote for ballot in ballots for vote in ballot.votes if vote.collaborator == name]


OWN, OTHER = {"name": "own", "seed": 1}, {"name": "other", "lm": "other", "seed": 1}


def test_every_kind_votes_once_on_every_query_in_the_order_of_the_spec(context, stub):
    made = context(
        {"name": "remote", "engine": "big"}, OTHER, {"name": "near", "view": "knn"}, OWN, {"name": "old", "adapter": "ft:mine"}
    )
    assert {c.kind for c in made.spec.collaborators} == set(KINDS)
    ballots = propagate(made, POOL)
    assert [b.query_id for b in ballots] == [q.id for q in POOL]
    assert {tuple(v.collaborator for v in b.votes) for b in ballots} == {("remote", "other", "near", "own", "old")}
    remote = votes_of(ballots, "remote")
    assert [v.answer for v in remote] == ["red", "blue"] * 3
    assert remote[0].mean_nll == pytest.approx(mean_nll("red"))
    asked = stub.asked[0].body["messages"]
    assert [turn["role"] for turn in asked] == ["user", "assistant"] * 2 + ["user"]  # demonstrations as turns, like the LM's
    assert all(v.scored and v.error is None for b in ballots for v in b.votes)


def test_another_lm_answers_as_it_does_in_a_lab_of_its_own(context, other_lm, cache):
    """Its own tokenizer, template and weights: the same votes, to the last bit."""
    beside = votes_of(propagate(context(OWN, OTHER), POOL), "other")
    alone = Lab(other_lm, name="other", cache=cache, device="cpu", threads=1, precision="fp32")
    assert beside == votes_of(propagate(context({**OTHER, "lm": None}, lab=alone), POOL), "other")
    assert beside != [replace(v, collaborator="other") for v in votes_of(propagate(context(OWN), POOL), "own")]


def test_a_fine_tuned_model_answers_as_the_rounds_own_adapter_would(context, tuned):
    old = {"name": "old", "seed": 1}
    named = propagate(context({**old, "adapter": "ft:mine"}), POOL)
    assert named == propagate(context(old, adapter=tuned), POOL)
    assert named != propagate(context(old), POOL)


def test_each_network_is_loaded_once_a_chunk_and_what_is_loaded_goes_first(context, lab):
    made = context(OWN, OTHER, {**OWN, "name": "own-2"}, {**OTHER, "name": "other-2"})
    keep = MemoryKeep(chunk_size=2)
    before = lab.loads
    in_chunks = keep.map("propagate", POOL, lambda part: propagate(made, part))
    assert lab.loads - before == 4, "three chunks, two networks: two loads, then one a chunk"
    with lab.lm(None):
        pass
    again = [ballot for start in (4, 2, 0) for ballot in propagate(made, POOL[start : start + 2])]
    assert sorted(again, key=lambda b: b.query_id) == list(in_chunks), "whatever was mounted, the same votes"


def test_a_stopped_run_goes_on_with_the_same_votes_whichever_network_is_loaded(context, tmp_path):
    made = context(OWN, OTHER)
    whole = DirectoryKeep(tmp_path / "whole", {}, chunk_size=2).map("propagate", POOL, lambda part: propagate(made, part))
    halves = DirectoryKeep(tmp_path / "halves", {}, chunk_size=2)

    def interrupted(part):
        if part[0] == POOL[2]:
            raise KeyboardInterrupt
        return propagate(made, part)

    with pytest.raises(KeyboardInterrupt):
        halves.map("propagate", POOL, interrupted)
    with made.lab.lm(None):
        pass  # the new process has another network first
    assert halves.map("propagate", POOL, lambda part: propagate(made, part)) == whole


def test_an_engine_fails_through_a_chunk_and_no_vote_is_lost_doubled_or_changed(context, stub):
    made = context({"name": "remote", "engine": "big", "temperature": 0.7}, OWN)
    quiet = propagate(made, POOL)
    before = len(stub.answered)
    stub.fail("limited", "broken", "reset", "half", "cut", "other_json", "aborted")
    assert propagate(made, POOL) == quiet
    assert len(stub.answered) - before == len(POOL)


def test_an_engine_that_is_away_ends_the_chunk_or_its_own_votes(context):
    with pytest.raises(EngineAway):
        propagate(context(OWN, {"name": "remote", "engine": "away"}), POOL)
    ballots = propagate(context(OWN, {"name": "remote", "engine": "away", "optional": True}), POOL)
    for ballot in ballots:
        own, remote = ballot.votes
        assert (remote.answer, remote.response, remote.scored) == (None, "", False)
        assert "2 requests failed; the last fault: ConnectError" in (remote.error or "")
        assert remote.mean_nll == own.mean_nll, "no number of its own"


def test_votes_without_log_probs_count_for_agreement_and_sway_no_mean(context):
    [ballot, *_] = propagate(context({"name": "mute", "engine": "mute"}, {"name": "remote", "engine": "big"}), POOL)
    mute, remote = ballot.votes
    assert (mute.answer, mute.scored, remote.scored) == ("red", False, True)
    assert mute.mean_nll == remote.mean_nll == pytest.approx(mean_nll("red"))
    unscored = Vote("x", "red", "red", 7.0, 1, scored=False)
    assert [v.mean_nll for v in scored([unscored, Vote("a", "", None, 1.0, 1), Vote("b", "", None, 2.0, 1)])] == [1.5, 1.0, 2.0]
    assert [v.mean_nll for v in scored([unscored, unscored])] == [0.0, 0.0]


def test_engines_are_given_twice_the_room_when_it_was_measured_in_our_tokens(context, stub):
    remote = {"name": "remote", "engine": "big"}
    propagate(context(remote, max_new_tokens="auto"), POOL[:1])
    propagate(context(remote), POOL[:1])
    assert [a.body["max_tokens"] for a in stub.asked] == [8, 4]


def test_names_nobody_gave_are_refused(context):
    with pytest.raises(LmNotFound, match="no language model 'odd' here; there is: other"):
        propagate(context({"name": "x", "lm": "odd"}), POOL)
    with pytest.raises(LmNotFound, match="no adapter 'ft:odd'"):
        propagate(context({"name": "x", "adapter": "ft:odd"}), POOL)


def test_votes_stored_before_there_were_reasons_still_read(tmp_path):
    payload = tmp_path / "payload.json"
    payload.write_text('[{"answer":"red","collaborator":"a","mean_nll":0.5,"response":"red","tokens":2}]')
    entry = {"sha256": file_sha256(payload), "bytes": payload.stat().st_size}
    stored = {"type": "Vote", "many": True, "files": {"payload.json": entry}}
    assert decode(stored, tmp_path) == [Vote("a", "red", "red", 0.5, 2)]


def test_the_command_line_reads_the_same_places_from_a_file_and_keeps_no_key(llama, cache, stub, tmp_path, monkeypatch, capsys):
    seen: list[Lab] = []

    def run_job(*_: object, lab: Lab, **__: object) -> None:
        seen.append(lab)
        raise LmNotFound("that is all the test wants to see")

    monkeypatch.setattr(command, "run_job", run_job)
    (tmp_path / "spec.yaml").write_text("")
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"item {i},{'ab'[i % 2]}\n" for i in range(8)))
    (tmp_path / "more.csv").write_text("text\nanother item\n")
    places = tmp_path / "outside.yaml"
    places.write_text(f"lms: {{other: {llama}}}\nengines:\n  big: {{url: '{stub.url}', model: m, api_key: sk-secret}}\n")
    files = [str(tmp_path / name) for name in ("spec.yaml", "rows.csv", "more.csv", "out")]
    monkeypatch.setattr("sys.argv", ["semisup", *files, "--lm", llama, "--cache", str(cache), "--outside", str(places)])
    assert command.main() == 2
    [lab] = seen
    assert lab.beside("other").name == "other"
    assert lab.environment["engines"] == {"big": "m"}
    assert "sk-secret" not in (tmp_path / "out" / "run.json").read_text()
    places.write_text("engines: {big: {url: 'http://h/v1'}}")
    assert command.main() == 2
    assert "engines.big.model: Field required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lm": "a", "engine": "b"}, "lm and engine exclude each other"),
        ({"adapter": "a", "view": "knn"}, "adapter and view exclude each other"),
        ({"optional": True}, "optional is for a collaborator with an engine"),
        ({"engine": ""}, "at least 1 character"),
    ],
)
def test_a_collaborator_runs_in_one_place(given, says):
    with pytest.raises(SpecError, match=says) as caught:
        load_spec({"propagation": {"collaborators": [{"name": "x", **given}]}})
    assert str(caught.value.param).startswith("propagation.collaborators.0")

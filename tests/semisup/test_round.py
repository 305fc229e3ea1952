"""Whole rounds on a random-init LlamaForCausalLM with a chat template: mechanics, reproducibility, and no peeking at golds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.semisup.builders import TINY_JOB as SPEC
from worker.semisup.data import Split
from worker.semisup.errors import DataError, Stopped
from worker.semisup.job import Outcome, run_job
from worker.semisup.keep import DirectoryKeep, MemoryKeep
from worker.semisup.spec import PAPER, JobSpec
from worker.semisup.stages import train


def spec(**changes) -> JobSpec:
    return JobSpec.model_validate({**SPEC, **changes})


@pytest.fixture
def run(lab, split) -> Callable[..., tuple[Outcome, MemoryKeep]]:
    def go(keep=None, gold=None, rows: Split = split, **changes):
        keep = keep or MemoryKeep(chunk_size=4)
        lab.tick = keep.tick
        return run_job(spec(**changes), rows, lab=lab, keep=keep, gold=gold), keep

    return go


def fingerprint(outcome: Outcome) -> dict[str, bytes]:
    """Every artefact's bytes; the report without its wall seconds, which no rerun repeats."""
    root = Path(outcome.artefacts.path)
    files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    report = json.loads(files.pop("report.json"))
    report.pop("seconds")
    files.pop("report.md")
    return files | {"report": json.dumps(report, sort_keys=True).encode()}


def test_a_round_ends_with_an_adapter_that_peft_loads_and_a_report(run, llama, split):
    outcome, keep = run()
    root = Path(outcome.artefacts.path)
    network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), str(root / "adapter"))
    assert network(torch.tensor([[1, 2, 3]])).logits.shape[:2] == (1, 3)
    stages = {name.split("/")[1] for name in keep.stored if name.startswith("round-1/")}
    assert stages == {
        "own-neighbours", "warmup", "neighbours", "views", "calibrate", "propagate", "agree", "select", "evolve", "evaluate"
    }  # fmt: skip
    names = [arm["name"] for arm in outcome.report.body["arms"]]
    assert {"vanilla", "knn_vote", "classifier", "labels_only_early", "labels_only_matched", "evolved"} <= set(names)
    samples = [json.loads(line) for line in (root / "samples.jsonl").read_text().splitlines()]
    assert [s["query_id"] for s in samples] == [q.id for q in split.unlabeled]
    assert all(len(s["votes"]) == 4 and len(s["neighbours"]) == 2 and s["reason"] for s in samples)
    assert "adapter_config.json" in {p.name for p in (root / "adapter").iterdir()}
    config = json.loads((root / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert config["target_modules"] == sorted(config["target_modules"])  # else its bytes differ from process to process


def test_the_same_spec_data_and_seed_give_the_same_bytes_and_another_seed_does_not(run):
    first, again, other = run()[0], run()[0], run(seed=7)[0]
    assert fingerprint(first) == fingerprint(again)
    assert first.adapter.sha256 != other.adapter.sha256


def test_golds_of_unlabeled_rows_reach_the_report_and_nothing_else(run, split):
    """methods.md A1: with random golds every training artefact is byte-identical."""
    right = {q.id: ("red", "blue")[i % 2] for i, q in enumerate(split.unlabeled)}
    wrong = {q.id: ("blue", "red")[i % 2] for i, q in enumerate(split.unlabeled)}
    prints = [fingerprint(run(gold=gold)[0]) for gold in (right, wrong)]
    reports = [json.loads(p.pop("report")) for p in prints]
    assert prints[0] == prints[1]
    accuracies = [r["rounds"][0]["pseudo_label_accuracy"]["all"]["accuracy"] for r in reports]
    assert accuracies[0] + accuracies[1] <= 1.0
    assert accuracies[0] != accuracies[1]


@pytest.mark.parametrize(
    ("stage", "rounds"),
    [
        ("round-1/warmup", 1),
        ("round-1/propagate/00001", 1),
        ("round-1/select", 1),
        ("round-1/evolve", 1),
        ("round-2/cross-fit/fold-1/evolve", 2),
        ("round-2/propagate/00001", 2),
    ],
)
def test_a_run_stopped_at_any_stage_goes_on_and_ends_with_the_same_bytes(run, tmp_path, stage, rounds):
    class Stopping(DirectoryKeep):
        def __call__(self, name, make):
            if self._prefix + name == stage and not (self.root / "stages" / stage).exists() and not stopped:
                stopped.append(stage)
                raise Stopped("stopped by the test")
            made.append(self._prefix + name)
            return super().__call__(name, make)

    made: list[str] = []
    stopped: list[str] = []
    undisturbed = run(rounds=rounds)[0]
    with pytest.raises(Stopped):
        run(keep=Stopping(tmp_path, {}, chunk_size=4), rounds=rounds)
    before = set(made)
    made.clear()
    resumed, _ = run(keep=Stopping(tmp_path, {}, chunk_size=4), rounds=rounds)
    assert before
    assert fingerprint(resumed) == fingerprint(undisturbed)


def test_a_second_round_works_on_what_the_first_did_not_select(run, split):
    outcome, keep = run(rounds=2, selection={"strategy": "random", "share": 0.5}, evolve={"relabel": False, "n_epochs": 1})
    first, second = (keep.stored[f"round-{n}/select"] for n in (1, 2))
    taken = {s.query_id for s in first.chosen()}
    assert {s.query_id for s in second.samples} == {q.id for q in split.unlabeled} - taken
    assert "round-2/warmup" not in keep.stored
    lineage = json.loads((Path(outcome.artefacts.path) / "adapter" / "lineage.json").read_text())
    assert {row["id"] for row in lineage["selected"]} == taken | {s.query_id for s in second.chosen()}


def test_repo_head_trains_on_pseudo_responses_alone_and_shows_no_neighbours(lab, split, monkeypatch):
    trained = {}
    original = train.fit

    def spy(lab, start, examples, recipe, training, **kwargs):
        trained.setdefault(len(trained), (len(examples), recipe))
        return original(lab, start, examples, recipe, training, **kwargs)

    monkeypatch.setattr(train, "fit", spy)
    plain = {k: v for k, v in SPEC.items() if k not in ("selection", "propagation")} | {"warmup": {"n_epochs": 30}}
    given = JobSpec.model_validate(plain | {"profile": "repo_head", "evaluation": {"baselines": False}})
    keep = MemoryKeep(chunk_size=4)
    run_job(given, split, lab=lab, keep=keep)
    (labeled, warm), *rest = trained.values()
    assert labeled == len(split.labeled)
    assert warm.format == "plain"
    selected = keep.stored["round-1/select"].selected
    if rest:
        assert rest[0][0] == selected
        assert rest[0][1].learning_rate == pytest.approx(warm.learning_rate * 0.01)
    assert given.selection.scope == "disputed"


@pytest.mark.parametrize(
    ("off", "votes"),
    [
        ({"propagation": {"k": 2, "collaboration": False, "collaborators": [{"name": "a", "temperature": 0.0}]}}, 1),
        ({"propagation": {"k": 2, "in_context": False}}, 4),
        ({"resolve": {"resolver": "drop"}}, 4),
        ({"evaluation": {"baselines": False}}, 4),
        ({"propagation": {"k": 2, "collaborators": [{"name": "a"}, {"name": "near", "view": "knn", "k": 3}]}}, 2),
    ],
    ids=["collaboration", "in_context", "justify", "baselines", "knn_view"],
)
def test_each_step_can_be_switched_off_or_changed(run, off, votes):
    outcome, keep = run(**off)
    samples = keep.stored["round-1/select"].samples
    assert {len(s.votes) for s in samples} == {votes}
    assert ("labels-only/early" in keep.stored) == ("evaluation" not in off)
    assert outcome.adapter.steps > 0
    if votes == 2:
        assert {s.votes[1].answer for s in samples} <= {"red", "blue"}  # neighbours always answer


def test_without_in_weight_a_random_lm_says_nothing_and_the_job_says_so(run):
    with pytest.raises(DataError, match="None of 40 responses") as caught:
        run(propagation={"k": 2, "in_weight": False, "collaborators": PAPER["propagation"]["collaborators"]})
    assert caught.value.code == "low_parse_rate"
    assert "in_weight" in caught.value.hint


def test_without_unlabeled_rows_the_job_is_labels_only(run, split):
    outcome, keep = run(rows=replace(split, unlabeled=()))
    assert not any(name.startswith("round-") for name in keep.stored)
    assert outcome.adapter == keep.stored["labels-only/early"]
    assert outcome.report.body["rounds"] == []


def test_a_share_of_the_labels_is_held_out_when_no_test_file_is_given(run, split):
    outcome, _ = run(rows=replace(split, held_out=()))
    task = outcome.report.body["task"]
    assert task["labeled"] + task["held_out"] == len(split.labeled)
    assert task["held_out"] >= 1
    lineage = json.loads((Path(outcome.artefacts.path) / "adapter" / "lineage.json").read_text())
    assert not set(lineage["labeled"]) & set(lineage["held_out"])


def test_labels_of_which_too_few_are_left_are_refused(run, split):
    with pytest.raises(DataError, match="1 labeled rows that ask different things are left") as caught:
        run(rows=Split(split.labeled[:2], (), ()))
    assert (caught.value.code, caught.value.param) == ("too_few_labeled", "training_file")


def test_the_step_matched_control_leaves_out_words_as_evolve_does(lab, split, monkeypatch):
    seen = {}
    original = train.fit

    def spy(lab, start, examples, recipe, training, **kwargs):
        if kwargs.get("steps"):
            seen["matched"] = examples
        return original(lab, start, examples, recipe, training, **kwargs)

    monkeypatch.setattr(train, "fit", spy)
    evolve = {"n_epochs": 1, "token_drop": 0.5}
    run_job(spec(evolve=evolve, evaluation={"with_neighbours": False}), split, lab=lab, keep=MemoryKeep(chunk_size=16))
    first, second = seen["matched"](0), seen["matched"](1)
    assert len(first) == len(split.labeled)
    assert first != second


def test_full_training_leaves_whole_weights(run):
    outcome, _ = run(hyperparameters={"trainable": "full", "learning_rate": 0.005, "batch_size": 4})
    folder = Path(outcome.artefacts.path) / "adapter"
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert network.config.hidden_size == 32
    assert outcome.adapter.kind == "full"

"""Whole jobs at the edges of selection: rounds that select nothing, an LM that says nothing, promises from start to report."""

from pathlib import Path

import pytest

from tests.semisup.builders import examples, queries
from worker.semisup.data import Split
from worker.semisup.errors import DataError
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.spec import JobSpec

SPEC = {
    "answer": {"kind": "label", "labels": ["red", "blue"]},
    "hyperparameters": {"learning_rate": 0.03, "batch_size": 8, "lora": {"r": 8, "alpha": 16}},
    "warmup": {"n_epochs": 3, "format": "in_context"},
    "evolve": {"n_epochs": 1, "relabel": False},
    "evaluation": {"baselines": False, "with_neighbours": False},
    "calibration": {"mode": "off"},
    "resolve": {"resolver": "drop"},
}
NEAR = {"name": "near", "view": "knn", "k": 3}  # neighbours always answer


@pytest.fixture
def run(lab, split):
    def go(rows: Split = split, **changes):
        keep = MemoryKeep(chunk_size=8)
        lab.tick = keep.tick
        return run_job(JobSpec.model_validate({**SPEC, **changes}), rows, lab=lab, keep=keep), keep

    return go


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_job_whose_rounds_select_nothing_ends_with_the_teacher_and_says_so(run, rounds):
    outcome, keep = run(
        rounds=rounds,
        propagation={"k": 2, "collaborators": [NEAR]},
        selection={"strategy": "percentile", "theta": 0.0},
    )
    assert not any(name.endswith("/evolve") for name in keep.stored)
    assert outcome.adapter.sha256 == keep.stored["round-1/warmup"].sha256
    rows = outcome.report.body["rounds"]
    assert len(rows) == rounds
    for number, row in enumerate(rows, start=1):
        assert (row["selected"], row["pool"], row["trained_on"]) == (0, 10, 0)
        assert row["reasons"] == {"above_percentile": 10}
        assert row["note"].startswith(f"Round {number} selected none of 10 rows (above_percentile: 10)")
    told = (Path(outcome.artefacts.path) / "report.md").read_text(encoding="utf-8")
    assert "Round 1 selected none of 10 rows" in told
    assert (Path(outcome.artefacts.path) / "selected.jsonl").read_text(encoding="utf-8") == ""


def test_when_every_row_is_dropped_and_there_is_no_warm_up_the_labels_alone_are_trained_on(run, split):
    """The base LM babbles, the neighbours answer, so no row is unanimous and the resolver drops them all."""
    outcome, keep = run(rounds=2, propagation={"k": 2, "in_weight": False, "collaborators": [{"name": "a"}, NEAR]})
    first, second = (keep.stored[f"round-{n}/select"] for n in (1, 2))
    assert first.reasons == {"no_answer": 10}
    assert "Only 0 of 10 generated responses hold an answer" in first.note
    assert outcome.adapter.steps > 0
    assert outcome.report.body["rounds"][0]["consistency_rate"] == 0.0
    assert outcome.report.body["rounds"][0]["trained_on"] == 0
    assert len(second.samples) == 10
    assert keep.stored["round-1/evolve"].steps == 1  # eight labeled rows, one epoch, a batch of eight


def test_a_second_round_with_no_rows_left_is_no_division_by_zero(run):
    outcome, _ = run(rounds=2, propagation={"k": 2, "collaborators": [NEAR]}, selection={"strategy": "all"})
    first, second = outcome.report.body["rounds"]
    assert (first["selected"], second["pool"], second["selected"]) == (10, 0, 0)
    assert second["note"] == "Round 2 had no rows left to label: earlier rounds selected them all."


def test_an_lm_that_only_babbles_ends_the_job_with_examples(run):
    with pytest.raises(DataError, match="None of 10 responses to 10 unlabeled rows") as caught:
        run(propagation={"k": 2, "in_weight": False, "collaborators": [{"name": "a"}]})
    assert caught.value.code == "low_parse_rate"
    assert caught.value.message.count("'; '") + caught.value.message.count("'; \"") <= 4


@pytest.mark.parametrize(("precision", "kept"), [(0.6, True), (0.9, False)])
def test_a_promise_from_calibration_rows_reaches_samples_and_report(run, precision, kept):
    """Forty labels, half of them kept for calibration: 20 clean rows show 0.6 (5 are needed) and cannot show 0.9 (22 are)."""
    outcome, keep = run(
        rows=Split(examples("l", 40), queries("u", 10), examples("t", 6, start=100)),
        propagation={"k": 2, "collaborators": [NEAR]},
        calibration={"mode": "held_out", "fraction": 0.5},
        selection={"strategy": "risk_control", "precision": precision, "confidence": 0.9, "fallback": "none"},
    )
    made, selection = keep.stored["round-1/calibrate/weights"], keep.stored["round-1/select"]
    row = outcome.report.body["rounds"][0]
    told, words = row["guarantee"], (Path(outcome.artefacts.path) / "report.md").read_text(encoding="utf-8")
    assert told == selection.guarantee
    assert (told["certified"], told["exact"], told["mode"]) == (kept, kept, "held_out")
    assert told["calibration_rows"] == len(made.judged) == 20
    assert ("Selected with a guarantee" in words) == kept
    if kept:
        assert row["note"] is None
        assert told["calibration_n"] == sum(judged.mean_nll <= told["threshold"] for judged in made.judged)
        assert selection.selected == sum(sample.mean_nll <= told["threshold"] for sample in selection.samples) > 0
    else:
        assert "20 calibration rows got an answer; precision 0.9 with confidence 0.9 needs at least 22" in words
        assert selection.selected == 0


def test_near_duplicates_are_found_by_the_prompts_embeddings(run, split):
    _, keep = run(
        propagation={"k": 2, "collaborators": [NEAR]},
        selection={"strategy": "all", "caps": {"max_near_duplicates": 1, "near_duplicate_similarity": 0.8}},
    )
    selection = keep.stored["round-1/select"]
    assert 0 < selection.selected < len(split.unlabeled)  # "item 1000 is painted red" and its likes are nearly one prompt
    assert selection.reasons["near_duplicate"] == len(split.unlabeled) - selection.selected

"""Validation rows decide and nothing else does: which rows they are, which adapter is kept, and when rounds end."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.semisup.builders import TINY_JOB, ballot, examples, queries
from worker.semisup import round as one_round
from worker.semisup.data import Prediction, Split
from worker.semisup.errors import SpecError
from worker.semisup.guard import MIN_VALIDATION, Decision, Source, arrange, decide, summary
from worker.semisup.intervals import paired
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.rounds import NO_ADAPTER, best, stops
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import Evaluation, JobSpec, load_spec

SOURCE = Source("test_file", 0.25, 10, "10 of the 40 rows of the test file decide.")
THREE = {"kind": "label", "labels": ["red", "blue", "green"]}


def predictions(pattern: str) -> tuple[Prediction, ...]:
    """`x` is right, `.` is wrong."""
    return tuple(Prediction(f"v-{i}", "red", 0.1, mark == "x", 2) for i, mark in enumerate(pattern))


# --- who decides ----------------------------------------------------------------------------------------------------------


def rows(held_out: int = 0, validation: int = 0, unlabeled: int = 4, labeled: int = 8) -> Split:
    return Split(examples("l", labeled), queries("u", unlabeled), examples("t", held_out, 100), examples("v", validation, 3000))


def test_a_validation_file_beside_a_test_file_decides_whole_and_every_test_row_is_reported():
    given = rows(held_out=20, validation=12)
    split, source = arrange(JobSpec(), given)
    assert (split.held_out, split.validation) == (given.held_out, given.validation)
    assert (source.file, source.share, source.rows) == ("validation_file", None, 12)


@pytest.mark.parametrize(
    ("given", "file"),
    [(rows(held_out=60), "test_file"), (rows(validation=60), "validation_file"), (rows(labeled=300), "training_file")],
    ids=["test file", "validation file", "labels"],
)
def test_otherwise_a_stratified_share_decides_and_leaves_the_reported_rows(given, file):
    split, source = arrange(JobSpec(), given)
    reported, deciding = {e.id for e in split.held_out}, {e.id for e in split.validation}
    assert not reported & deciding
    assert len(deciding) == source.rows == 15
    assert len(reported) == 45
    assert (source.file, source.share) == (file, 0.25)
    assert set(Counter(e.answer for e in split.validation).values()) == {7, 8}
    assert not (reported | deciding) & {e.id for e in split.labeled}
    assert arrange(JobSpec(), given)[0] == split
    assert arrange(JobSpec(seed=7), given)[0].validation != split.validation


def test_too_few_rows_mean_no_guard_and_nothing_is_taken_from_the_report():
    few = MIN_VALIDATION * 4 - 1
    split, source = arrange(JobSpec(), rows(held_out=few))
    assert (split.validation, len(split.held_out), source.rows) == ((), few, 0)
    assert source.note == "No guard: 9 rows (25 % of those held out) of 'test_file' could decide, at least 10 are needed."
    split, source = arrange(JobSpec(), rows(held_out=few, validation=MIN_VALIDATION - 1))
    assert (split.validation, source.note) == (
        (),
        "No guard: 9 rows of 'validation_file' could decide, at least 10 are needed.",
    )


def test_without_unlabeled_rows_every_held_out_row_is_reported():
    split, source = arrange(JobSpec(), rows(validation=60, unlabeled=0))
    assert (len(split.held_out), split.validation, source.file) == (60, (), None)


# --- the decision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evolved", "labels_only", "result", "reason"),
    [
        ("xxxxxxx...", "xxxxxx....", "evolved", "better"),
        ("xxxx......", ".xxxx.....", "evolved", "tie"),
        ("xxxxx.....", "....xxxxxx", "labels_only_early", "worse"),
    ],
)
def test_the_better_validation_accuracy_wins_and_evolved_where_they_are_equal(evolved, labels_only, result, reason):
    decision = decide(Evaluation(), predictions(evolved), predictions(labels_only), rounds=True)
    assert (decision.result, decision.reason, decision.rows) == (result, reason, 10)
    assert (decision.evolved, decision.labels_only) == (evolved.count("x") / 10, labels_only.count("x") / 10)
    assert decision.paired["difference"] == pytest.approx((evolved.count("x") - labels_only.count("x")) / 10)


@pytest.mark.parametrize(
    ("given", "checked", "rounds", "result", "reason"),
    [
        ({"keep": "evolved"}, ("..", "xx"), True, "evolved", "asked"),
        ({"keep": "labels_only"}, ("xx", ".."), True, "labels_only_early", "asked"),
        ({"baselines": False}, ("..", ""), True, "evolved", "no_labels_only"),
        ({}, ("", ""), True, "evolved", "no_validation"),
        ({}, ("", ""), False, "labels_only_early", "no_unlabeled"),
    ],
)
def test_without_anything_to_judge_by_nothing_is_judged(given, checked, rounds, result, reason):
    decision = decide(Evaluation(**given), *map(predictions, checked), rounds=rounds)
    assert decision == Decision(result, reason)


def test_copies_among_the_validation_rows_are_one_observation():
    evolved, labels_only = predictions("x" * 15 + "." * 5), predictions("." * 5 + "x" * 10 + "." * 5)
    once = decide(Evaluation(), evolved, labels_only, rounds=True, alike=range(20))
    copies = decide(Evaluation(), evolved, labels_only, rounds=True, alike=[row // 5 for row in range(20)])
    assert once.paired["difference"] == copies.paired["difference"] == 0.25
    assert (once.paired["won"], copies.paired["won"]) == (5, 1)
    assert copies.paired["half_width"] > 2 * once.paired["half_width"]


KEPT = Decision("evolved", "better", 100, 0.82, 0.79, {})
BACK = Decision("labels_only_early", "worse", 100, 0.7, 0.79, {})


@pytest.mark.parametrize(
    ("ours", "theirs", "decision", "said"),
    [
        (
            "x" * 90 + "." * 10,
            "x" * 70 + "." * 30,
            KEPT,
            "Unlabeled data helped by 20.0 ± 7.9 points over labels-only (early-stopped) on 100 held-out rows; the evolved "
            "adapter is the result (100 validation rows: 82.0 % evolved, 79.0 % labels-only).",
        ),
        (
            "x" * 71 + "." * 29,
            "x" * 70 + "." * 30,
            KEPT,
            "No difference could be shown to labels-only (early-stopped): +1.0 ± 2.0 points on 100 held-out rows; the evolved "
            "adapter is the result (100 validation rows: 82.0 % evolved, 79.0 % labels-only).",
        ),
        (
            "x" * 60 + "." * 40,
            "x" * 80 + "." * 20,
            BACK,
            "Evolved was worse than labels-only (early-stopped) by 20.0 ± 7.9 points on 100 held-out rows, the labels-only "
            "adapter is the result (100 validation rows: 70.0 % evolved, 79.0 % labels-only).",
        ),
    ],
    ids=["helped", "no difference", "worse"],
)
def test_the_three_sentences(ours, theirs, decision, said):
    comparison = paired([m == "x" for m in ours], [m == "x" for m in theirs], 0.95)
    assert summary(decision, comparison, 100, 0.95, SOURCE) == said


def test_rows_that_contradict_the_validation_rows_are_not_hidden():
    helped = paired([True] * 20 + [False] * 20, [False] * 40, 0.95)
    assert ", yet the labels-only adapter is the result" in summary(BACK, helped, 40, 0.95, SOURCE)
    hurt = paired([False] * 40, [True] * 20 + [False] * 20, 0.95)
    assert ", yet the evolved adapter is the result" in summary(KEPT, hurt, 40, 0.95, SOURCE)


def test_few_rows_that_all_point_one_way_claim_nothing():
    """Four of four: the normal interval has width 0 here, the exact test says 1 in 8."""
    few = paired([True] * 4, [False] * 4, 0.95)
    assert few["half_width"] == 0
    assert summary(KEPT, few, 4, 0.95, SOURCE).startswith("No difference could be shown")


def test_without_a_comparison_nothing_is_claimed():
    alone = summary(Decision("evolved", "no_labels_only"), None, 40, 0.95, SOURCE)
    assert alone.startswith(
        "There is no labels-only arm to compare with: nothing is claimed, the evolved adapter is the result"
    )
    plain = summary(Decision("labels_only_early", "no_unlabeled"), None, 40, 0.95, SOURCE)
    assert plain == "There is no unlabeled data: nothing is claimed, the labels-only adapter is the result."


def test_keeping_an_arm_that_is_not_trained_is_refused():
    with pytest.raises(SpecError, match="keep: labels_only needs the labels-only arm"):
        load_spec({"evaluation": {"keep": "labels_only", "baselines": False}})


# --- rounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "min_gain", "patience", "taken", "stopped"),
    [
        ([5], 0.0, 1, 0, False),
        ([5, 6], 0.0, 1, 1, False),
        ([5, 5], 0.0, 1, 0, True),
        ([5, 4], 0.0, 1, 0, True),
        ([5, 6], 0.1, 1, 0, True),
        ([5, 7], 0.1, 1, 1, False),
        ([5, 4, 6], 0.0, 2, 2, False),
        ([5, 4, 5], 0.0, 2, 0, True),
        ([5, 4, 4, 9], 0.0, 0, 3, False),
        ([NO_ADAPTER, 0], 0.0, 1, 1, False),
        ([], 0.0, 1, 0, False),
    ],
)
def test_the_best_round_is_taken_and_patience_ends_the_rest(right, min_gain, patience, taken, stopped):
    assert best(right, 10, min_gain) == taken
    assert stops(right, 10, min_gain, patience) is stopped


# --- whole jobs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def go(lab, split):
    def run(keep=None, held_out=48, **changes):
        keep = keep or MemoryKeep(chunk_size=16)
        lab.tick = keep.tick
        changes = {"resolve": {"resolver": "vote"}, **changes}
        given = replace(split, held_out=examples("t", held_out, start=100))
        return run_job(JobSpec.model_validate({**TINY_JOB, **changes}), given, lab=lab, keep=keep), keep

    return run


def votes_are(answer):
    """In place of a round's inference: every collaborator answers `answer(query, round seed)`."""

    def vote(task, teacher, part, neighbours, views, seed):
        return [ballot(*[answer(query, seed)] * 4, identity=query.id) for query in part]

    return vote


def gold(query, seed):
    return query.question.split()[-1]


def test_the_spec_can_ask_for_either_adapter_and_gets_its_weights(go):
    shared = MemoryKeep(chunk_size=16)
    for keep, arm, stage in (
        ("evolved", "evolved", "round-1/evolve"),
        ("labels_only", "labels_only_early", "labels-only/early"),
    ):
        for made_last in ("report", "artifacts"):
            shared.stored.pop(made_last, None)
        outcome, _ = go(keep=shared, evaluation={"keep": keep, "with_neighbours": False})
        root = Path(outcome.artefacts.path)
        assert outcome.adapter.sha256 == shared.stored[stage].sha256
        assert (outcome.decision.result, outcome.report.body["result"]) == (arm, arm)
        lineage = json.loads((root / "adapter" / "lineage.json").read_text())
        assert (lineage["arm"], lineage["adapter_sha256"]) == (arm, outcome.adapter.sha256)
        assert bool(lineage["selected"]) == (arm == "evolved")
        weights = (root / "adapter" / "adapter_model.safetensors").read_bytes()
        assert weights == (Path(outcome.adapter.path) / "adapter_model.safetensors").read_bytes()
        assert weights != (root / "other-adapter" / "adapter_model.safetensors").read_bytes()
        assert "round-1/validate/00000" not in shared.stored  # nobody asked


def test_garbage_pseudo_labels_end_with_the_labels_only_adapter(go, monkeypatch):
    monkeypatch.setattr(one_round, "vote", votes_are(lambda query, seed: "green"))
    outcome, keep = go(answer=THREE, evolve={"n_epochs": 20}, evaluation={"with_neighbours": False})
    assert outcome.adapter == keep.stored["labels-only/early"]
    guard = outcome.report.body["guard"]
    assert (guard["result"], guard["reason"], guard["rows"]) == ("labels_only_early", "worse", 12)
    assert guard["evolved"] < guard["labels_only"]
    assert "the labels-only adapter is the result (12 validation rows" in outcome.report.body["summary"]
    assert "## What decided" in (Path(outcome.artefacts.path) / "report.md").read_text()


def test_good_pseudo_labels_end_with_the_evolved_adapter(go, monkeypatch):
    monkeypatch.setattr(one_round, "vote", votes_are(gold))
    outcome, keep = go(evolve={"n_epochs": 20}, evaluation={"with_neighbours": False})
    assert outcome.adapter == keep.stored["round-1/evolve"]
    assert outcome.decision.reason in ("better", "tie")
    ids = {p.id for p in keep.stored["labels-only/validate/00000"]}
    assert ids == {p.id for p in keep.stored["round-1/validate/00000"]}
    assert not ids & {p.id for arm in ("vanilla", "labels_only_early") for p in keep.stored[f"arms/{arm}/00000"]}
    task = outcome.report.body["task"]
    assert (task["validation"], task["held_out"]) == (12, 36)


def test_a_second_round_that_ruins_the_first_ends_the_rounds_and_the_first_is_the_result(go, monkeypatch):
    first = derive_seed(42, "round", 1)
    monkeypatch.setattr(one_round, "vote", votes_are(lambda query, seed: gold(query, seed) if seed == first else "green"))
    outcome, keep = go(
        answer=THREE,
        rounds=4,
        evolve={"n_epochs": 20},
        selection={"strategy": "random", "share": 0.3},
        evaluation={"with_neighbours": False, "keep": "evolved"},
    )
    body = outcome.report.body
    assert {name.split("/")[0] for name in keep.stored if name.startswith("round-")} == {"round-1", "round-2"}
    assert (body["stopping"]["run"], body["stopping"]["taken"], body["stopping"]["ended"]) == (2, 1, "no_gain")
    scores = [row["validation"]["accuracy"] for row in body["rounds"]]
    assert scores[0] > scores[1]
    assert [row["taken"] for row in body["rounds"]] == [True, False]
    assert outcome.adapter == keep.stored["round-1/evolve"]
    evolved = next(arm for arm in body["arms"] if arm["name"] == "evolved")
    assert evolved["accuracy"] == body["rounds"][0]["accuracy"]
    selected = (Path(outcome.artefacts.path) / "selected.jsonl").read_text().splitlines()
    assert {json.loads(line)["round"] for line in selected} == {1}


def test_without_validation_rows_all_rounds_run_and_the_last_is_the_result(go):
    outcome, keep = go(held_out=6, rounds=2, selection={"strategy": "random", "share": 0.3}, evaluation={"baselines": False})
    assert outcome.adapter == keep.stored["round-2/evolve"]
    stopping = outcome.report.body["stopping"]
    assert (stopping["taken"], stopping["ended"]) == (2, "all_run")
    assert stopping["note"] == "2 of 2 rounds run, the last one taken (no validation rows)."
    assert not [name for name in keep.stored if "validate" in name]
    assert outcome.report.body["guard"]["reason"] == "no_labels_only"

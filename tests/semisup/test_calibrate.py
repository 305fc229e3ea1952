"""Calibration: folds, what each of them may see, and that judged rows were judged by weights that did not see them."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.semisup.builders import TINY_JOB, examples
from worker.semisup.data import Neighbours, Selection, Split
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.report import recipes
from worker.semisup.round import RoundResult, run_round
from worker.semisup.rounds import Rounds
from worker.semisup.spec import JobSpec
from worker.semisup.splits import stratified_folds
from worker.semisup.stages import calibrate as module
from worker.semisup.stages.calibrate import calibration_folds, teaching, views_for
from worker.semisup.task import make_task

KNN = {"name": "near", "view": "knn"}
BARE = RoundResult(1, None, None, Neighbours({}, {}), 0, Selection((), None, 0, 0), (), ())


def task_of(lab, split: Split, **changes):
    return make_task(lab, JobSpec.model_validate({**TINY_JOB, **changes}), split)


def test_folds_hold_every_row_once_and_each_answer_evenly():
    rows = examples("l", 23)
    folds = stratified_folds(rows, 3, seed=5)
    assert sorted(i for fold in folds for i in fold) == list(range(23))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for colour in ("red", "blue"):
        counts = [Counter(rows[i].answer for i in fold)[colour] for fold in folds]
        assert max(counts) - min(counts) <= 1
    assert folds != stratified_folds(rows, 3, seed=6)


def test_never_more_folds_than_rows(lab, split):
    few = replace(split, labeled=split.labeled[:2])
    assert [len(fold) for fold in calibration_folds(task_of(lab, few))] == [1, 1]


def test_off_and_held_out(lab, split):
    assert calibration_folds(task_of(lab, split, calibration={"mode": "off"})) == ()
    task = task_of(lab, split, calibration={"mode": "held_out", "fraction": 0.5})
    (drawn,) = calibration_folds(task)
    taught = teaching(task, (drawn,))
    assert len(drawn) == 4
    assert {e.id for e in taught.split.labeled} == {e.id for e in split.labeled} - {split.labeled[i].id for i in drawn}
    assert taught.max_new_tokens == task.max_new_tokens


@pytest.mark.parametrize("calibration", [{"mode": "cross_fit", "folds": 3}, {"mode": "held_out", "fraction": 0.5}])
def test_rows_that_a_collaborator_answers_from_memory_teach_and_calibrate_nothing(lab, split, calibration):
    task = task_of(lab, split, calibration=calibration)
    known = frozenset(e.id for e in split.labeled[:4])
    folds = calibration_folds(replace(task, learned=known))
    judged = {split.labeled[i].id for fold in folds for i in fold}
    assert judged
    assert not judged & known
    if calibration["mode"] == "cross_fit":
        assert judged == {e.id for e in split.labeled} - known
    everything = replace(task, learned=frozenset(e.id for e in split.labeled))
    assert calibration_folds(everything) == ()
    assert teaching(everything, ()) is everything


@pytest.fixture
def spied(monkeypatch):
    """Ids of the labeled rows each warm-up was trained on and each vote could be shown."""
    seen = {"trained": [], "shown": []}
    original_fit, original_vote = module.warm_up, module.vote

    def warm_up(task, *rest):
        seen["trained"].append({e.id for e in task.split.labeled})
        return original_fit(task, *rest)

    def vote(task, teacher, part, near, *rest):
        seen["shown"] += [({q.id}, set(near.ids[q.id]), {e.id for e in task.split.labeled}) for q in part]
        return original_vote(task, teacher, part, near, *rest)

    monkeypatch.setattr(module, "warm_up", warm_up)
    monkeypatch.setattr(module, "vote", vote)
    return seen


def test_a_fold_never_sees_its_own_rows(lab, split, spied):
    task, keep = task_of(lab, split), MemoryKeep(4)
    lab.tick = keep.tick
    result = run_round(task, 1, None, keep.within("round-1"))
    everyone = {e.id for e in split.labeled}
    assert sorted(len(everyone - rows) for rows in spied["trained"]) == [2, 3, 3]
    assert {i for ids, *_ in spied["shown"] for i in ids} == everyone
    for ids, near, taught in spied["shown"]:
        assert not ids & taught
        assert near <= taught
    found = result.calibration
    assert (found.mode, found.folds, {j.id for j in found.judged}) == ("cross_fit", 3, everyone)
    assert set(found.weights) == {"a", "b", "embedded", "spread"}
    golds = {e.id: e.answer for e in split.labeled}
    assert all(j.correct == (j.answer == golds[j.id]) for j in found.judged)
    assert {s.resolved_by for s in result.selection.samples} == {"pool"}


def test_a_folds_rows_are_judged_with_weights_that_did_not_see_them(lab, split, monkeypatch):
    fitted, judged = [], []  # ids of the rows that each fit of the weights saw; (ids of judged rows, number of their fit)
    distributions, pool_all = module.distributions, module.pool_all

    def seen(ballots, classes):
        fitted.append({ballot.query_id for ballot in ballots})
        return distributions(ballots, classes)

    def settled(task, queries, ballots, weights):
        judged.append(({query.id for query in queries}, int(weights["near"])))
        return pool_all(task, queries, ballots, weights)

    monkeypatch.setattr(module, "distributions", seen)
    monkeypatch.setattr(module, "fit_weights", lambda spoken, truth: (float(len(fitted)),))  # the weight names its fit
    monkeypatch.setattr(module, "pool_all", settled)
    for calibration, fits in (({"mode": "cross_fit", "folds": 3}, 4), ({"mode": "held_out", "fraction": 0.7}, 1)):
        fitted.clear()
        judged.clear()
        changes = {"in_weight": False, "collaborators": [KNN], "k": 2}
        task = task_of(lab, split, calibration=calibration, propagation=changes)
        folds = calibration_folds(task)
        taught = teaching(task, folds)
        made = module.calibrate(task, taught, folds, None, views_for(task, taught, folds, ()), MemoryKeep(64), 1)
        assert len(fitted) == fits
        assert {row.id for row in made.judged} == {i for ids, _ in judged for i in ids}
        for ids, fit in judged:
            assert not ids & fitted[fit - 1]


def test_held_out_rows_teach_nothing_before_evolve(lab, split, spied):
    task, keep = task_of(lab, split, calibration={"mode": "held_out", "fraction": 0.5}), MemoryKeep(4)
    lab.tick = keep.tick
    result = run_round(task, 1, None, keep.within("round-1"))
    (drawn,) = calibration_folds(task)
    kept_out = {split.labeled[i].id for i in drawn}
    assert spied["trained"] == []  # no network but the round's own, which was not trained on them either
    assert all(not near & kept_out for _, near, _ in spied["shown"])
    assert {j.id for j in result.calibration.judged} < kept_out  # the other half gave the weights
    assert all(not {i for i, _ in sample.neighbours} & kept_out for sample in result.selection.samples)


def test_the_rows_that_weigh_and_those_that_are_judged_are_alike_whatever_the_order_of_the_file(lab, split):
    """The file's answers come in turn: every second row would be one answer alone."""
    rows = replace(split, labeled=examples("l", 40))
    task = task_of(lab, rows, calibration={"mode": "held_out", "fraction": 0.9}, propagation={"collaborators": [KNN], "k": 2})
    folds = calibration_folds(task)
    taught = teaching(task, folds)
    made = module.calibrate(task, taught, folds, None, views_for(task, taught, folds, ()), MemoryKeep(64), 1)
    answers = Counter(rows.labeled[int(judged.id[2:])].answer for judged in made.judged)
    assert len(made.judged) == len(folds[0]) // 2
    assert abs(answers["red"] - answers["blue"]) <= 1


@pytest.mark.parametrize("calibration", [{"mode": "cross_fit", "folds": 3}, {"mode": "held_out", "fraction": 0.7}])
def test_copies_of_a_row_are_one_trial(lab, split, calibration):
    """Labels written several times over are no more evidence: bounds count what is judged as independent rows."""
    copies = [replace(e, query=replace(e.query, id=f"l-9{n}{e.id[2:]}")) for n in range(4) for e in split.labeled]
    often = replace(split, labeled=(*split.labeled, *copies))
    made = []
    for rows in (split, often):
        task = task_of(lab, rows, calibration=calibration, propagation={"collaborators": [KNN], "k": 2})
        folds = calibration_folds(task)
        taught = teaching(task, folds)
        made.append(module.calibrate(task, taught, folds, None, views_for(task, taught, folds, ()), MemoryKeep(64), 1))
    once, repeated = made
    assert sorted(row.id for row in repeated.judged) == sorted(row.id for row in once.judged)


def test_votes_are_calibrated_for_other_resolvers_too(lab, split):
    task, keep = task_of(lab, split, resolve={"resolver": "vote"}, calibration={"mode": "cross_fit", "folds": 2}), MemoryKeep(4)
    lab.tick = keep.tick
    found = run_round(task, 1, None, keep.within("round-1")).calibration
    assert (found.folds, len(found.judged), found.weights) == (2, 8, {})
    assert {f"fold-{n}/{stage}" for n in (0, 1) for stage in ("warmup", "propagate", "justify")} == set(found.tokens)


def test_later_rounds_answer_everything_again_and_keep_the_first_rounds_measure(lab, split):
    task, keep = task_of(lab, split, rounds=2), MemoryKeep(4)
    lab.tick = keep.tick
    first = run_round(task, 1, None, keep.within("round-1"))
    second = run_round(task, 2, first, keep.within("round-2"))
    assert len(second.selection.samples) == len(split.unlabeled)
    assert second.calibration == first.calibration
    assert not any(name.startswith("round-2/calibrate") for name in keep.stored)
    asked = [{i for table in keep.stored[f"round-{n}/views"].tables.values() for i in table} for n in (1, 2)]
    assert asked[0] - asked[1] == {e.id for e in split.labeled}  # nobody would read the second round's folds


def test_what_calibration_took_is_told(lab, split, monkeypatch):
    """Tokens of every stage inside it, and what a fold's training had to do to get through."""
    original = module.warm_up
    monkeypatch.setattr(module, "warm_up", lambda *given: replace(original(*given), notes=("it was halved",)))
    keep = MemoryKeep(4)
    lab.tick = keep.tick
    spec = JobSpec.model_validate({**TINY_JOB, "evaluation": {"with_neighbours": False}})
    body = run_job(spec, split, lab=lab, keep=keep).report.body
    votes = [ballot for name, made in keep.stored.items() if "calibrate/fold-1/propagate" in name for ballot in made]
    assert body["tokens"]["round-1/calibrate/fold-1/propagate"] == sum(v.tokens for b in votes for v in b.votes) > 0
    fold = keep.stored["round-1/calibrate/fold-2/warmup"]
    assert body["tokens"]["round-1/calibrate/fold-2/warmup"] == fold.trained_tokens
    assert "it was halved" in body["notes"]
    stop = keep.stored["labels-only/stop"]
    assert body["tokens"]["labels-only/stop"] == stop.tokens > fold.trained_tokens
    assert body["recipes"]["warmup"]["epochs"] == 30


def test_the_report_gives_the_warm_ups_own_number_of_epochs(lab, split):
    """In held_out mode it sees fewer labels, so that auto means more epochs; and without labels evolve sees fewer rows."""
    changes = {"warmup": {}, "evolve": {"data": "selected"}, "calibration": {"mode": "held_out", "fraction": 0.5}}
    rows = replace(split, labeled=examples("l", 80), held_out=examples("t", 4, start=100))
    task = task_of(lab, rows, **changes)
    result = replace(BARE, trained_on=tuple(range(200)))
    found = recipes(task, Rounds((result,), ((),), 0, "all_run"))
    assert (found["warmup"]["epochs"], found["evolve"]["epochs"]) == (18, 11)  # ceil(720 / 40), ceil(2160 / 200)

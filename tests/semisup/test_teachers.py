"""Later rounds that answer rows again: each row by a network that has not learned it, asked in the form it was trained in."""

from dataclasses import replace

import pytest

from tests.semisup.builders import TINY_JOB, queries
from worker.semisup.data import Adapter, Neighbours, Query, Sample
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.spec import JobSpec
from worker.semisup.stages import propagate, teachers
from worker.semisup.stages.teachers import Teachers, cross_fitted
from worker.semisup.task import Task

TWO_ROUNDS = {**TINY_JOB, "rounds": 2, "patience": 0, "evaluation": {"baselines": False}, "calibration": {"folds": 2}}


def adapter(name: str) -> Adapter:
    return Adapter(f"/nowhere/{name}", "lora", name, 1, 1, 0.0)


@pytest.fixture
def watched(lab, split, monkeypatch):
    """A job of two rounds; what every cross-fitted teacher learned, and what each adapter was asked how."""
    learned: dict[str, set[str]] = {}
    asked: list[tuple[str | None, set[str], int]] = []
    evolve, shown = teachers.evolve, propagate.demonstrations

    def evolving(task, start, samples, *rest):
        made = replace(evolve(task, start, samples, *rest), notes=("Halved.",))
        learned[made.sha256] = {s.query_id for s in samples}
        return made

    def demonstrating(context, query, collaborator):
        found = shown(context, query, collaborator)
        asked.append((context.adapter.sha256 if context.adapter else None, {query.id}, len(found)))
        return found

    def go(**changes):
        monkeypatch.setattr(teachers, "evolve", evolving)
        monkeypatch.setattr(propagate, "demonstrations", demonstrating)
        keep = MemoryKeep(chunk_size=4)
        lab.tick = keep.tick
        return run_job(JobSpec.model_validate({**TWO_ROUNDS, **changes}), split, lab=lab, keep=keep), keep, learned, asked

    return go


def test_no_row_is_answered_again_by_a_network_that_has_learned_it(watched, split):
    outcome, keep, learned, asked = watched()
    made = [keep.stored[f"round-2/cross-fit/fold-{n}/evolve"] for n in (0, 1)]
    assert set(learned) == {one.sha256 for one in made}
    again = [(who, ids, shown) for who, ids, shown in asked if who in learned]
    assert set().union(*(ids for _, ids, _ in again)) == {q.id for q in split.unlabeled}
    assert all(ids.isdisjoint(learned[who]) for who, ids, _ in again)
    assert {shown for _, _, shown in again} == {0}, "evolved on plain prompts, so asked with plain ones"
    assert {shown for who, _, shown in asked if who not in learned} == {2}, "the warm-ups are shown neighbours"
    assert [row.query_id for row in keep.stored["round-2/select"].samples] == [q.id for q in split.unlabeled]
    tokens = outcome.report.body["tokens"]
    assert [tokens[f"round-2/cross-fit/fold-{n}/evolve"] for n in (0, 1)] == [one.trained_tokens for one in made]
    assert outcome.report.body["notes"] == ["Halved."], "what had to be done to train a teacher is told"


def test_neighbours_are_shown_again_where_evolve_shows_them(watched):
    _, _, learned, asked = watched(evolve={"n_epochs": 1, "format": "mixed"})
    assert {shown for who, _, shown in asked if who in learned} == {2}


def test_rows_that_were_not_selected_before_are_answered_by_the_evolved_adapter(watched):
    _, keep, learned, asked = watched(evolve={"n_epochs": 1, "relabel": False}, selection={"strategy": "random", "share": 0.5})
    assert not learned
    assert {row.query_id for row in keep.stored["round-2/select"].samples}
    evolved = keep.stored["round-1/evolve"].sha256
    assert {shown for who, _, shown in asked if who == evolved} == {2}


def test_every_row_is_asked_of_its_own_teacher_and_the_order_stays():
    three = Teachers((adapter("a"), None, adapter("c")), {"1": 1, "2": 2, "3": 1})
    calls = []

    def ask(who, rows):
        calls.append(rows)
        return [f"{who.sha256 if who else 'base'} {row}" for row in rows]

    assert three.each(["3", "2", "1", "0"], str, ask) == ["base 3", "c 2", "base 1", "a 0"]
    assert calls == [["0"], ["3", "1"], ["2"]]
    assert three.each([], str, ask) == []
    with pytest.raises(ValueError, match="shorter"):
        three.each(["0"], str, lambda who, rows: [])


def sample(query: Query, label: str) -> Sample:
    return Sample(query.id, 1, "", label, label, 0.1, 1.0, "pool", "selected", "kept", (), ())


def test_copies_share_a_half_labels_are_spread_and_one_row_cannot_be_halved(lab, split, monkeypatch):
    unlabeled = queries("u", 12)
    copy = replace(unlabeled[0], id="copy")
    rows = [sample(q, ("red", "blue")[i % 2]) for i, q in enumerate((*unlabeled, copy))]
    task = Task(lab, JobSpec.model_validate(TINY_JOB), replace(split, unlabeled=(*unlabeled, copy)), None)
    monkeypatch.setattr(teachers, "evolve", lambda task, start, samples, *rest: adapter(str(len(samples))))
    none = Neighbours({}, {})
    last = Teachers((adapter("last"),))
    made = cross_fitted(task, rows, last, None, none, MemoryKeep(), seed=3)
    assert made.fold_of["copy"] == made.fold_of[unlabeled[0].id]
    halves = [[r for r in rows if made.fold_of[r.query_id] == n] for n in (0, 1)]
    assert [str(len(half)) for half in reversed(halves)] == [one.sha256 for one in made.cross_fit]
    for half in halves:
        assert {r.pseudo_label for r in half if r.query_id != "copy"} == {"red", "blue"}
        assert abs(sum(r.pseudo_label == "red" for r in half if r.query_id != "copy") - 3) <= 1
    assert cross_fitted(task, rows[:1], last, None, none, MemoryKeep(), seed=3) is last
    assert last.cross_fit == ()

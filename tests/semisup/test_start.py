"""A job that goes on from an earlier adapter: what starts there, what does not, and which rows it must not be judged on."""

import json
from pathlib import Path

import pytest

from tests.semisup.builders import PAPER_JOB, TINY_JOB, examples, queries
from worker.semisup import arms, round
from worker.semisup.data import Split
from worker.semisup.errors import DataError, SpecError
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.outside import open_outside
from worker.semisup.spec import JobSpec
from worker.semisup.stages import calibrate, train
from worker.semisup.start import adapter_at, answered_from_memory, check_start, without_seen


def tiny(**changes) -> JobSpec:
    return JobSpec.model_validate({**PAPER_JOB, **changes})


@pytest.fixture
def run(lab):
    def go(split: Split, **options):
        keep = MemoryKeep(4)
        lab.tick = keep.tick
        return run_job(options.pop("spec", tiny()), split, lab=lab, keep=keep, **options), keep

    return go


@pytest.fixture
def earlier(run, split):
    outcome, _ = run(split, spec=tiny(evaluation={"baselines": False, "with_neighbours": False}))
    return adapter_at(Path(outcome.artefacts.path) / "adapter"), outcome


@pytest.fixture
def starts(monkeypatch):
    """What each training of a run started from: (seed, sha256 of the start or None)."""
    seen: dict[str, list[str | None]] = {}

    def watched(name):
        make = train.fit

        def fit(lab, start, *given, **named):
            seen.setdefault(name(), []).append(start.sha256 if start else None)
            return make(lab, start, *given, **named)

        return fit

    now = {"stage": ""}
    monkeypatch.setattr(train, "fit", watched(lambda: now["stage"]))
    folds = calibrate.warm_up
    monkeypatch.setattr(calibrate, "warm_up", lambda *given: (now.update(stage="fold"), folds(*given))[1])
    for module, names in ((round, ("warm_up", "evolve")), (arms, ("choose_stop", "labels_only_early", "labels_only_matched"))):
        for name in names:
            make = getattr(module, name)

            def named(*given, _name=name, _make=make, **options):
                now["stage"] = _name
                return _make(*given, **options)

            monkeypatch.setattr(module, name, named)
    return seen


def test_an_adapter_is_found_again_in_its_artefact_folder(earlier):
    found, outcome = earlier
    assert (found.sha256, found.kind) == (outcome.adapter.sha256, "lora")


@pytest.mark.slow
def test_warm_up_starts_from_the_earlier_adapter_and_no_control_does(run, earlier, starts):
    start, first = earlier
    new = Split(examples("l", 8), queries("u", 10, start=2000), examples("t", 6, start=100))
    outcome, keep = run(new, start=start)
    warm = keep.stored["round-1/warmup"]
    assert starts == {
        "warm_up": [start.sha256],
        "evolve": [warm.sha256],
        "choose_stop": [None],
        "labels_only_early": [None],
        "labels_only_matched": [None],
    }
    matched, evolved = keep.stored["labels-only/matched"], keep.stored["round-1/evolve"]
    assert matched.steps == warm.steps + evolved.steps, "from the base LM it gets the steps of the warm-up too"
    fresh, _ = run(new)
    assert outcome.adapter.sha256 not in (first.adapter.sha256, fresh.adapter.sha256)
    lineage = json.loads((Path(outcome.artefacts.path) / "adapter" / "lineage.json").read_text())
    assert lineage["start_sha256"] == start.sha256


@pytest.mark.slow
def test_without_unlabeled_rows_the_one_training_goes_on_from_the_earlier_adapter(run, earlier, starts):
    start, _ = earlier
    run(Split(examples("l", 8), (), examples("t", 6, start=100)), start=start)
    assert starts == {"choose_stop": [start.sha256], "labels_only_early": [start.sha256]}


@pytest.mark.slow
def test_calibration_asks_networks_that_never_saw_its_rows_not_even_in_an_earlier_job(run, earlier, split, starts):
    start, _ = earlier
    starts.clear()
    cross = tiny(calibration={"mode": "cross_fit", "folds": 2}, evaluation={"baselines": False, "with_neighbours": False})
    run(split, start=start, spec=cross)
    assert (starts["fold"], starts["warm_up"]) == ([None, None], [start.sha256])
    with pytest.raises(SpecError, match="may be rows that the earlier adapter has learned"):
        run(split, start=start, spec=tiny(calibration={"mode": "held_out"}))


def test_an_adapter_of_another_kind_is_refused_before_anything_runs(run, earlier, split):
    start, _ = earlier
    with pytest.raises(SpecError, match="was made with trainable 'lora', and goes on with it; asked for is 'full'") as refused:
        run(split, start=start, spec=tiny(hyperparameters={"trainable": "full"}))
    assert (refused.value.code, refused.value.param) == ("adapter_mismatch", "hyperparameters.trainable")
    check_start(tiny(hyperparameters={"trainable": "full"}), {"trainable": "full"}, whose="it", unlabeled=True)


def test_what_is_known_of_the_adapter_must_fit_and_something_must_start_from_it():
    was = tiny().hyperparameters.model_dump(mode="json")
    check_start(tiny(), was, whose="it", unlabeled=True)
    for changes, param in (
        ({"hyperparameters": {"lora": {"r": 2, "alpha": 4}}}, "hyperparameters.lora"),
        ({"propagation": {"k": 2, "in_weight": False}}, "propagation.in_weight"),
    ):
        with pytest.raises(SpecError) as refused:
            check_start(tiny(**changes), was, whose="it", unlabeled=True)
        assert refused.value.param == param
    check_start(tiny(propagation={"in_weight": False}), was, whose="it", unlabeled=False)


@pytest.mark.parametrize("mode", ["error", "drop", "allow"])
def test_rows_an_earlier_job_was_trained_on_judge_nothing(mode):
    spec = tiny(evaluation={"on_leakage": mode})
    split = Split(examples("l", 4), (), examples("t", 6, start=100), examples("v", 4, start=200))
    seen = [("old.csv", (*examples("l", 4), *examples("l", 2, start=104)))]
    if mode == "error":
        with pytest.raises(DataError, match=r"2 rows of 'test_file' are labeled rows of old\.csv") as refused:
            without_seen(spec, split, seen)
        assert refused.value.code == "test_leakage"
        return
    left, notes = without_seen(spec, split, seen)
    assert len(left.held_out) == (4 if mode == "drop" else 6)
    assert (left.validation, left.labeled) == (split.validation, split.labeled)
    assert len(notes) == 1
    assert notes[0].endswith("They were dropped.") == (mode == "drop")


def test_notes_that_are_known_late_are_in_the_report(run, split):
    asked: list[int] = []
    spec = tiny(evaluation={"baselines": False, "with_neighbours": False})
    late = lambda: ["early", f"late {asked.append(1) or len(asked)}"]  # noqa: E731
    outcome, keep = run(split, spec=spec, notes=["early"], late_notes=late)
    assert outcome.report.body["notes"] == ["early", "late 1"], "what two know of is said once"
    assert "report" in keep.stored


def collaborating(tmp_path, rows: int):
    """Places in which the adapter ft:old has learned the first `rows` labeled rows, in another order and spelling."""
    lines = [f'"{e.query.question.upper()} ",{e.answer}' for e in reversed(examples("l", rows))]
    file = tmp_path / "a1b2"
    file.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    learned = [{"path": str(file), "filename": "old.csv"}] if rows else []
    return open_outside({"adapters": {"ft:old": {"base": "tiny", "path": str(tmp_path), "learned": learned}}})


def test_labeled_rows_that_a_collaborating_adapter_was_trained_on_are_found_by_their_normalised_text(tmp_path):
    split = Split(examples("l", 8), (), ())
    named = [{"name": "a"}, {"name": "old", "adapter": "ft:old"}]
    spec = tiny(propagation={"collaborators": named})
    ids, notes = answered_from_memory(spec, split, collaborating(tmp_path, 4))
    assert ids == {e.id for e in split.labeled[:4]}
    assert notes == [
        "4 of 8 labeled rows are rows that the collaborating adapter ft:old was trained on: votes are not weighed or judged "
        "by them."
    ]
    alone = tiny(propagation={"collaborators": named, "collaboration": False})
    for given, rows in ((spec, 0), (alone, 4), (tiny(), 4)):
        assert answered_from_memory(given, split, collaborating(tmp_path, rows)) == (frozenset(), [])


@pytest.mark.slow
def test_a_pool_without_a_row_to_weigh_by_weighs_all_alike_and_promises_nothing(run, split):
    spec = JobSpec.model_validate(
        {
            **TINY_JOB,
            "selection": {"strategy": "risk_control", "precision": 0.9},
            "evaluation": {"baselines": False, "with_neighbours": False},
        }
    )
    outcome, _ = run(split, spec=spec, learned=frozenset(e.id for e in split.labeled))
    [found] = outcome.report.body["rounds"]
    assert found["guarantee"]["certified"] is False
    assert found["guarantee"]["calibration_rows"] == 0
    assert found["selected"] > 0

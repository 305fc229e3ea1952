"""The report of a whole job: what labeled rows say of its pseudo-labels, and that every key is there, told and documented."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.semisup.builders import TINY_JOB, example, examples
from worker.semisup import rounds
from worker.semisup.data import Calibration, Judged
from worker.semisup.intervals import accuracy_interval
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.reliability import lower_bound
from worker.semisup.spec import JobSpec

DOCUMENT = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
JUDGED = tuple(Judged(f"l-{i:06d}", i % 2, "red" if i else None, 0.01 * i, 1.0 if i < 5 else 0.5, 0 < i < 7) for i in range(8))
CALIBRATION = Calibration("cross_fit", 2, JUDGED, {"a": 1.25, "b": 0.0})


@pytest.fixture
def report(lab, split, monkeypatch):
    """Runs a job whose rounds were calibrated with `calibration`, and returns (report.json, report.md)."""

    def go(calibration=CALIBRATION, gold=None, rows=split, **changes):
        real = rounds.run_round
        monkeypatch.setattr(rounds, "run_round", lambda *given: replace(real(*given), calibration=calibration))
        keep = MemoryKeep(chunk_size=16)
        lab.tick = keep.tick
        evaluation = {"baselines": False, "with_neighbours": False}
        spec = JobSpec.model_validate({**TINY_JOB, "evaluation": evaluation, **changes})
        root = Path(run_job(spec, rows, lab=lab, keep=keep, gold=gold).artefacts.path)
        return json.loads((root / "report.json").read_text()), (root / "report.md").read_text()

    return go


def test_a_round_tells_the_expected_precision_of_its_selection_with_a_bound_and_the_truth_beside_it(report, split):
    gold = {query.id: query.question.split()[-1] for query in split.unlabeled}
    body, text = report(gold=gold, selection={"strategy": "threshold", "max_mean_nll": 0.035})
    row = body["rounds"][0]
    found = row["reliability"]
    assert (found["mode"], found["folds"], found["judged"], found["unparsed"]) == ("cross_fit", 2, 8, 1)
    assert found["weights"] == {"a": 1.25, "b": 0.0}
    assert (found["overall"]["n"], found["overall"]["correct"]) == (7, 6)
    assert (found["selected"]["n"], found["selected"]["precision"]) == (3, 1.0)  # mean_nll 0.01, 0.02 and 0.03
    assert found["selected"]["lower"] == pytest.approx(0.05 ** (1 / 3))
    assert found["overall"]["lower"] == pytest.approx(lower_bound(6, 7, 0.95))
    assert [part["agreement"] for part in found["agreement"]] == [1.0, 0.5]
    known = row["pseudo_label_accuracy"]
    assert found["true"]["selected"] == known["selected"]
    assert found["true"]["overall"]["n"] <= known["all"]["n"]
    assert "Of the 3 judged rows that the same cut selects, 100.0 % are right: with 95 % confidence at least 36.8 %." in text
    assert "Judged were 8 labeled rows (2 folds), 1 of them without a readable answer." in text
    assert "Weights in the pool: a 1.25, b 0.00." in text


def test_without_golds_the_estimate_stands_alone_and_without_calibration_the_report_says_why(report):
    body, _ = report(selection={"strategy": "threshold", "max_mean_nll": 0.0})
    row = body["rounds"][0]
    assert "true" not in row["reliability"]
    assert row["reliability"]["selected"] == {
        "rule": "mean_nll at most 0", "n": 0, "correct": 0, "precision": None, "lower": None
    }  # fmt: skip
    assert row["reliability_note"].startswith("No judged row would have been selected")


def test_without_calibration_the_key_is_null_and_the_text_says_why(report):
    body, text = report(calibration=None)
    assert body["rounds"][0]["reliability"] is None
    assert "The reliability of this round's pseudo-labels was not measured: no labeled rows were judged" in text


def test_rows_that_two_files_share_are_counted_pair_by_pair(report, split):
    same = replace(
        split, held_out=(*split.held_out, replace(split.labeled[0], query=replace(split.labeled[0].query, id="t-9")))
    )
    body, text = report(rows=same)
    assert body["shared_rows"] == {
        "labeled/unlabeled": 0,
        "labeled/test": 1,
        "labeled/validation": 0,
        "unlabeled/test": 0,
        "unlabeled/validation": 0,
        "test/validation": 0,
    }
    assert "| labeled and test | 1 |" in text


def test_copies_among_the_held_out_rows_narrow_no_interval(report, split):
    """Six questions, four times each; validation rows are given, so that none of them decides."""
    copies = [replace(row, query=replace(row.query, id=f"{row.id}-{n}")) for row in split.held_out for n in range(4)]
    asked = len(split.held_out)
    rows = replace(split, held_out=tuple(copies), validation=examples("v", 12, start=300))
    body, _ = report(rows=rows, evaluation={"with_neighbours": False})
    for arm in body["arms"]:
        right = [True] * round(arm["accuracy"] * asked)
        assert arm["n"] == 4 * asked
        assert arm["interval"] == pytest.approx(accuracy_interval(right + [False] * (asked - len(right)), 0.95))
    assert body["comparisons"]
    assert all(row["won"] + row["lost"] <= asked for row in body["comparisons"])
    assert any(row["won"] + row["lost"] > 0 for row in body["comparisons"])


def test_a_label_that_no_labeled_row_has_is_counted_and_trains_nothing(report, split):
    rows = replace(split, held_out=(*split.held_out, example("t-9", "item 9 is painted green", "green")))
    body, _ = report(rows=rows, answer={"kind": "auto"})
    assert (body["task"]["labels"], body["task"]["unseen_labels"], body["task"]["held_out"]) == (["red", "blue"], 1, 7)


def test_every_key_of_the_report_is_documented(report, split):
    gold = {query.id: "red" for query in split.unlabeled}
    rows = replace(split, held_out=examples("t", 44, start=100))
    body, text = report(gold=gold, rows=rows, rounds=2, evaluation={"with_neighbours": False})
    assert body["schema"] == 2
    inside = [*body["rounds"], *body["arms"], *body["comparisons"], body["guard"], body["guard"]["source"], body["stopping"]]
    inside += [body["task"], body["rounds"][0]["reliability"]]
    missing = {
        key
        for part in (body, *inside)
        for key in part
        if not {f"`{key}`", f"`{key}[]`"} & set(re.findall(r"`[^`]+`", DOCUMENT))
    }
    assert not missing
    assert text.startswith(f"# Fine-tuning report\n\n{body['summary']}\n")
    assert [row["reliability"]["measured_in_round"] for row in body["rounds"]] == [1, 1]
    assert "Measured with the networks of round 1" in body["rounds"][1]["reliability_note"]
    assert body["stopping"]["note"] in text
    assert body["guard"]["source"]["note"] in text
    assert body["guard"]["rows"] == body["task"]["validation"] == 11

"""What labeled rows say of pseudo-labels, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest

from tests.semisup.builders import candidate, query
from worker.semisup.data import Calibration, Judged, Neighbours, Selection
from worker.semisup.reliability import by_agreement, curve, lower_bound, precision, reliability, would_select
from worker.semisup.report import calibration
from worker.semisup.spec import JobSpec
from worker.semisup.stages.select import select


def judged(nll: float, right: bool = True, agreement: float = 1.0, answer: str | None = "red", number: int = 0) -> Judged:
    return Judged(f"l-{number}", 0, answer, nll, agreement, right)


def pool(spec: dict, *nlls: float, answers: str = "", disputed: str = "") -> tuple[JobSpec, Selection]:
    """The selection of candidates with these scores, made by the selector itself."""
    job = JobSpec.model_validate({"selection": spec})
    made = [
        candidate(f"u-{i}", (answers or "r" * len(nlls))[i], nll, "justify" if disputed and disputed[i] == "d" else "agreement")
        for i, nll in enumerate(nlls)
    ]
    rows = [query(c.query_id, c.query_id) for c in made]
    return job, select(made, rows, Neighbours({}, {}), job.selection, round_number=1, seed=1)


def kept(job: JobSpec, selection: Selection, rows: list[Judged]) -> list[bool]:
    rule, _ = would_select(job.selection, selection)
    return [rule(row) for row in rows]


# --- the bound ------------------------------------------------------------------------------------------------------------


def test_the_bound_in_closed_form():
    assert lower_bound(20, 20, 0.95) == pytest.approx(0.05 ** (1 / 20))  # all right
    assert lower_bound(0, 20, 0.95) == 0
    assert lower_bound(1, 7, 0.9) == pytest.approx(1 - 0.9 ** (1 / 7))  # 1 - (1 - p) ** 7 = 0.1
    assert lower_bound(1, 1, 0.95) == pytest.approx(0.05)
    assert lower_bound(0, 0, 0.95) is None


@pytest.mark.parametrize(("right", "n"), [(3, 10), (45, 50), (17, 18)])
def test_at_the_bound_so_many_right_answers_have_just_the_allowed_probability(right, n):
    share = lower_bound(right, n, 0.9)
    tail = sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(right, n + 1))
    assert tail == pytest.approx(0.1)


def test_precision_counts_and_says_nothing_of_no_rows():
    assert precision([judged(0.1), judged(0.2, False)], 0.95) == {
        "n": 2,
        "correct": 1,
        "precision": 0.5,
        "lower": pytest.approx(1 - 0.95**0.5),
    }
    assert precision([], 0.95) == {"n": 0, "correct": 0, "precision": None, "lower": None}


# --- the curve ------------------------------------------------------------------------------------------------------------


def test_the_curve_has_bins_of_equal_count_the_most_confident_first():
    pairs = [(math.log(2) * (i % 2), i % 2 == 0) for i in range(10)]  # confidence 1 and right, or 1/2 and wrong
    first, second = curve(pairs)
    assert (first["confidence"], first["accuracy"], first["n"]) == (1.0, 1.0, 5)
    assert (second["confidence"], second["accuracy"], second["n"]) == (pytest.approx(0.5), 0.0, 5)
    assert (second["mean_nll_from"], second["mean_nll_to"]) == (math.log(2), math.log(2))


def test_bins_hold_every_row_and_are_few_where_rows_are_few():
    assert curve([]) == []
    assert [part["n"] for part in curve([(0.1, True)] * 4)] == [4]
    assert [part["n"] for part in curve([(0.1, True)] * 103)] == [11] * 3 + [10] * 7


def test_rows_of_equal_confidence_are_told_apart_by_nothing():
    """A pool that is sure of everything: the wrong answers are not the most confident ones."""
    pairs = [(0.0, i % 2 == 0) for i in range(20)]
    assert [part["accuracy"] for part in curve(pairs)] == [0.6, 0.4, 0.6, 0.4]
    assert [part["accuracy"] for part in calibration(pairs)] == [0.5] * 5


def test_agreement_against_correctness():
    rows = [judged(0.1, right, share) for share, right in ((1.0, True), (0.5, False), (1.0, True), (0.5, True), (0.75, False))]
    assert by_agreement(rows) == [
        {"agreement": 1.0, "n": 2, "accuracy": 1.0},
        {"agreement": 0.75, "n": 1, "accuracy": 0.0},
        {"agreement": 0.5, "n": 2, "accuracy": 0.5},
    ]


# --- the cut that was made, on other rows ---------------------------------------------------------------------------------


def test_a_percentile_cut_is_held_to_its_value_and_stays_strict():
    job, selection = pool({"theta": 50.0}, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert selection.threshold == 0.3
    assert kept(job, selection, [judged(0.29), judged(0.3), judged(0.31)]) == [True, False, False]
    job, selection = pool({"theta": 50.0, "strict": False}, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert kept(job, selection, [judged(0.29), judged(0.3), judged(0.31)]) == [True, True, False]


def test_a_percentile_of_equal_values_keeps_them_and_one_of_nothing_keeps_nothing():
    job, selection = pool({"theta": 50.0}, 0.2, 0.2, 0.2)
    assert selection.selected == 3
    assert kept(job, selection, [judged(0.2), judged(0.21)]) == [True, False]
    job, selection = pool({"theta": 0.0}, 0.1, 0.2, 0.3)
    assert kept(job, selection, [judged(0.0), judged(0.1)]) == [False, False]


def test_the_other_cuts():
    rows = [judged(0.1), judged(0.4), judged(0.6, agreement=0.5, answer="b")]
    assert kept(*pool({"strategy": "threshold", "max_mean_nll": 0.4}, 0.1), rows) == [True, True, False]
    assert kept(*pool({"strategy": "agreement", "min_agreement": 0.75}, 0.1), rows) == [True, True, False]
    assert kept(*pool({"strategy": "all"}, 0.1), rows) == [True] * 3
    assert kept(*pool({"strategy": "random", "share": 0.1}, 0.1), rows) == [True] * 3
    by_class = pool({"strategy": "class_percentile", "theta": 50.0}, 0.1, 0.2, 0.3, 0.9, answers="rrbb")
    there = [judged(0.1, answer="r"), judged(0.2, answer="r"), judged(0.3, answer="b"), judged(0.05, answer="g")]
    assert kept(*by_class, there) == [True, False, True, False]


def test_a_cut_of_the_disputed_leaves_agreed_rows_alone():
    job, selection = pool({"theta": 50.0, "scope": "disputed"}, 0.9, 0.1, 0.2, 0.3, disputed="addd")
    rows = [judged(0.9), judged(0.1, agreement=0.75), judged(0.3, agreement=0.75)]
    assert selection.threshold == pytest.approx(0.2)
    assert kept(job, selection, rows) == [True, True, False]
    nobody = pool({"theta": 50.0, "scope": "disputed"}, 0.1, 0.2, disputed="aa")
    assert kept(*nobody, rows) == [True, False, False]


def test_pooled_rows_on_which_all_votes_agree_are_no_disputed_ones():
    """The agreed ones are kept uncut, so that they have no say in whether the disputed values are all equal."""
    job = JobSpec.model_validate({"selection": {"theta": 50.0, "scope": "disputed"}})
    made = [replace(candidate(f"u-{i}", "red", nll, "pool"), agreement=share) for i, (nll, share) in enumerate(AGREED_AND_NOT)]
    rows = [query(c.query_id, c.query_id) for c in made]
    selection = select(made, rows, Neighbours({}, {}), job.selection, round_number=1, seed=1)
    assert selection.selected == 3
    assert kept(job, selection, [judged(0.2, agreement=0.5), judged(0.21, agreement=0.5)]) == [True, False]


AGREED_AND_NOT = [(0.9, 1.0), (0.2, 0.5), (0.2, 0.5)]


def test_the_whole_block():
    job, selection = pool({"theta": 50.0}, 0.1, 0.2, 0.3, 0.4, 0.5)
    rows = [judged(0.05 * i, right=i < 5, number=i) for i in range(1, 11)] + [judged(9.9, False, 0.25, None, 11)]
    found = reliability(Calibration("cross_fit", 2, tuple(rows), {"b": 0.0, "a": 1.5}), selection, job.selection, 0.9)
    assert (found["mode"], found["folds"], found["judged"], found["unparsed"]) == ("cross_fit", 2, 11, 1)
    assert list(found["weights"]) == ["a", "b"]
    assert (found["overall"]["n"], found["overall"]["correct"]) == (10, 4)
    chosen = found["selected"]
    assert (chosen["rule"], chosen["n"], chosen["correct"], chosen["precision"]) == ("mean_nll below 0.3", 5, 4, 0.8)
    assert chosen["lower"] == pytest.approx(lower_bound(4, 5, 0.9))
    assert sum(part["n"] for part in found["curve"]) == 10

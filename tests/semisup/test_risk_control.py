"""The promise of risk_control, held to populations whose true precision is known; what it says when it cannot promise."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from benchmarks.risk_control import POPULATIONS, simulate, uncorrected
from worker.semisup.errors import SpecError
from worker.semisup.selectors.cut import Judgements, Scores
from worker.semisup.selectors.risk import certify, risk_control, rows_needed, thresholds
from worker.semisup.spec import RiskControl, load_spec

SPLITS = 300
ALLOWED = binom.ppf(0.999, SPLITS, 0.1) / SPLITS  # what a rate of exactly 0.1 may look like in so many splits: 0.157


def judged(right: int, wrong: int, nll: float = 0.1) -> Judgements:
    return Judgements(np.full(right + wrong, nll), np.arange(right + wrong) < right)


def pool(size: int, judged: Judgements | None = None, low: float = 0.0, high: float = 1.0) -> Scores:
    plain = np.ones(size)
    return Scores(np.linspace(low, high, size), plain, np.full(size, "x"), plain < 0, judged)


@pytest.mark.parametrize("population", sorted(POPULATIONS))
@pytest.mark.parametrize("calibration", [50, 200])
def test_the_promise_is_broken_no_more_often_than_was_said(population, calibration):
    spec = RiskControl(precision=0.9, confidence=0.9, fallback="none")
    row = simulate(population, calibration, pool=600, splits=SPLITS, spec=spec, seed=1)
    assert row.broken <= ALLOWED
    assert row.broken_on_pool <= ALLOWED
    assert 0 <= row.kept <= 1
    assert np.isfinite([row.kept, row.oracle, row.certified]).all()


def test_it_keeps_most_of_what_an_oracle_would_keep_once_there_are_rows_enough():
    spec = RiskControl(precision=0.9, confidence=0.9, fallback="none")
    kept = {n: simulate("separated", n, pool=600, splits=60, spec=spec, seed=2) for n in (50, 400)}
    assert kept[400].kept >= 0.8 * kept[400].oracle
    assert kept[400].kept > kept[50].kept


@pytest.mark.parametrize("population", ["weak", "just below", "noise"])
def test_without_multiple_testing_control_the_same_simulation_shows_broken_promises(population):
    spec = RiskControl(precision=0.9, confidence=0.9, fallback="none")
    row = simulate(population, 200, pool=600, splits=SPLITS, spec=spec, seed=1, select=uncorrected)
    assert row.broken > 3 * ALLOWED


@pytest.mark.parametrize(("precision", "confidence", "rows"), [(0.95, 0.9, 45), (0.9, 0.9, 22), (0.5, 0.75, 2), (0.8, 0.9, 11)])
def test_the_fewest_rows_that_can_show_a_precision(precision, confidence, rows):
    assert rows_needed(precision, confidence) == rows
    cut = [
        risk_control(pool(60, judged(n, 0)), RiskControl(precision=precision, confidence=confidence), 0).guarantee["certified"]
        for n in (rows - 1, rows)
    ]
    assert cut == [False, True]


def test_a_certificate_names_its_evidence():
    """400 calibration rows, right up to 0.5 and wrong above: the cut stops near 0.5, and the bound is Clopper-Pearson's."""
    nll = np.linspace(0, 1, 400)
    cut = risk_control(pool(600, Judgements(nll, nll <= 0.5)), RiskControl(precision=0.9, confidence=0.9), 0)
    told = cut.guarantee
    assert told["certified"]
    assert 0.45 < told["threshold"] < 0.56
    assert cut.threshold == told["threshold"]
    assert cut.kept.tolist() == (np.linspace(0, 1, 600) <= told["threshold"]).tolist()
    assert cut.reason == "above_certified_threshold"
    assert cut.note is None
    assert told["calibration_n"] == (nll <= told["threshold"]).sum()
    assert told["errors"] == ((nll <= told["threshold"]) & (nll > 0.5)).sum()
    assert 0.9 <= told["lower_bound"] < 1 - told["errors"] / told["calibration_n"]
    at_nine = binomtest(told["calibration_n"] - told["errors"], told["calibration_n"]).proportion_ci(0.8).low
    assert told["lower_bound"] <= at_nine + 1e-12  # never better than one test at the whole budget


@pytest.mark.parametrize("fallback", ["percentile", "all", "none"])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (None, "There are no calibration rows"),
        (judged(30, 0), "30 calibration rows got an answer; precision 0.95 with confidence 0.9 needs at least 45"),
        (judged(0, 0), "0 calibration rows got an answer"),
        (judged(60, 40), "No threshold could be shown to give precision 0.95 with confidence 0.9: 40 of 100"),
    ],
    ids=["none", "too few", "no answers", "too many wrong"],
)
def test_without_a_promise_the_fallback_decides_and_the_note_says_so(rows, says, fallback):
    spec = RiskControl(precision=0.95, confidence=0.9, fallback=fallback, theta=30.0)
    cut = risk_control(pool(100, rows), spec, 0)
    assert cut.kept.sum() == {"percentile": 30, "all": 100, "none": 0}[fallback]
    assert cut.note.startswith(says)
    assert "nothing is promised" in cut.note
    assert not cut.guarantee["certified"]
    assert cut.guarantee["lower_bound"] is None


def test_an_empty_pool_is_no_reason_to_complain():
    cut = risk_control(pool(0, judged(100, 0)), RiskControl(), 0)
    assert (len(cut.kept), cut.note, cut.guarantee["certified"]) == (0, None, False)


def test_the_grid_sees_the_number_of_calibration_rows_and_nothing_else_of_them():
    """The error budget is spent on thresholds that were fixed before any calibration row was looked at."""
    scores = np.random.Generator(np.random.Philox(0)).random(500)
    grid = thresholds(scores, 100, 0.9, 0.9)
    assert sum(share for _, share in grid) == pytest.approx(1.0)
    assert sum(share > 0 for _, share in grid) == 3
    assert [t for t, _ in grid] == sorted({t for t, _ in grid})
    assert grid[-1][0] == scores.max()
    assert len(thresholds(scores, 22, 0.9, 0.9)) == 1  # so few rows are enough for everything at once, or for nothing
    assert thresholds(np.full(500, 0.3), 100, 0.9, 0.9) == [(0.3, pytest.approx(1.0))]


def test_what_a_rejected_threshold_had_is_lost_to_those_above_it():
    """22 wrong rows below everything: the first two walks fail; the third has its third of the budget, not all of it.

    Simulation cannot see this: of all populations above none is broken often enough when walks inherit what failed.
    """
    scores, evidence = np.linspace(0, 1, 1000), np.linspace(0, 1, 400)
    grid = thresholds(scores, 400, 0.9, 0.9)
    starts = [t for t, share in grid if share > 0]
    below = [int((evidence <= t).sum()) for t in starts]
    assert [binom.cdf(22, n, 0.1) > 0.1 for n in below] == [True, True, False]
    assert binom.cdf(22, below[2], 0.1) > 0.1 / 3
    assert certify(scores, Judgements(evidence, np.arange(400) >= 22), 0.9, 0.9) is None
    wrong = next(k for k in range(22, 0, -1) if binom.cdf(k, below[2], 0.1) <= 0.1 / 3)
    found = certify(scores, Judgements(evidence, np.arange(400) >= wrong), 0.9, 0.9)
    assert found is not None
    assert (found[0], found[2], found[3]) == (1.0, wrong, pytest.approx(0.1 / 3))
    clean = certify(scores, Judgements(evidence, np.ones(400, bool)), 0.9, 0.9)
    assert clean is not None
    assert clean[3] == pytest.approx(0.1)  # walks that meet join their budgets


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_a_calibration_row_that_turns_out_wrong_never_makes_the_selection_larger(data):
    rows = data.draw(st.integers(30, 120))
    seed = data.draw(st.integers(0, 10_000))
    generator = np.random.Generator(np.random.Philox(seed))
    evidence = Judgements(generator.random(rows), generator.random(rows) < 0.97)
    scores, spec = pool(80, evidence), RiskControl(precision=0.85, confidence=0.9, fallback="none")
    flipped = evidence.correct.copy()
    flipped[data.draw(st.integers(0, rows - 1))] = False
    worse = replace(scores, judged=Judgements(evidence.mean_nll, flipped))
    assert (risk_control(worse, spec, 0).kept <= risk_control(scores, spec, 0).kept).all()


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"precision": 1.0}, "precision"),
        ({"confidence": 0.0}, "confidence"),
        ({"fallback": "some"}, "fallback"),
        ({"caps": {"max_class_share": 0.0}}, "caps.max_class_share"),
        ({"caps": {"max_near_duplicates": 0}}, "caps.max_near_duplicates"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_promise_that_nobody_can_keep_is_refused_by_field(wrong, param):
    with pytest.raises(SpecError) as caught:
        load_spec({"selection": {"strategy": "risk_control", **wrong}})
    assert caught.value.param == f"selection.{param}"

"""Intervals against the textbook, and against rows that are copies of one another."""

import numpy as np
import pytest
from scipy.stats import binomtest

from worker.semisup.intervals import accuracy_interval, paired


def test_the_paired_difference_by_hand():
    found = paired([True, True, True, False], [True, False, False, False], 0.95)
    assert (found["difference"], found["won"], found["lost"]) == (0.5, 2, 0)
    assert found["half_width"] == pytest.approx(1.959964 * (1 / 3) ** 0.5 / 2, abs=1e-6)  # variance of 0, 1, 1, 0 is 1/3
    assert found["p_mcnemar"] == pytest.approx(0.5)  # 2 * (1/2) ** 2
    with pytest.raises(ValueError, match="3 answers cannot be paired with 2"):
        paired([True] * 3, [True] * 2, 0.95)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 7), (5, 7), (7, 7), (300, 400)])
def test_without_copies_the_interval_of_an_accuracy_is_wilsons(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.9, method="wilson")
    assert accuracy_interval([i < hits for i in range(n)], 0.9) == pytest.approx((expected.low, expected.high))


def test_every_row_written_several_times_changes_no_interval():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(40) < 0.8, rng.random(40) < 0.6
    alike = np.repeat(np.arange(40), 5)
    assert accuracy_interval(np.repeat(ours, 5).tolist(), 0.95, alike.tolist()) == pytest.approx(
        accuracy_interval(ours.tolist(), 0.95)
    )
    once = paired(ours.tolist(), theirs.tolist(), 0.95)
    copies = paired(np.repeat(ours, 5).tolist(), np.repeat(theirs, 5).tolist(), 0.95, alike.tolist())
    assert copies.pop("interval") == pytest.approx(once.pop("interval"))
    assert copies == pytest.approx(once)
    counted = paired(np.repeat(ours, 5).tolist(), np.repeat(theirs, 5).tolist(), 0.95)
    assert counted["half_width"] < 0.5 * once["half_width"]
    assert counted["p_mcnemar"] < once["p_mcnemar"]


def test_traffic_that_repeats_itself_does_not_make_a_difference_of_nothing():
    """Two adapters of one accuracy; a few questions make up most rows. Claimed at 0.95: interval leaves out 0, and p < 0.05."""
    rng = np.random.default_rng(1)
    trials, false = 400, {"copies": 0, "as rows": 0}
    for _ in range(trials):
        alike = np.repeat(np.arange(60), rng.integers(1, 12, size=60))
        ours, theirs = rng.random(60) < 0.7, rng.random(60) < 0.7
        rows = ours[alike].tolist(), theirs[alike].tolist()
        for name, groups in {"copies": alike.tolist(), "as rows": None}.items():
            found = paired(*rows, 0.95, groups)
            false[name] += abs(found["difference"]) > found["half_width"] and found["p_mcnemar"] < 0.05
    assert false["copies"] <= 0.05 * trials + 2 * (0.05 * 0.95 * trials) ** 0.5
    assert false["as rows"] > 0.25 * trials


def test_one_question_alone_says_nothing_and_no_question_is_an_error():
    alone = paired([True] * 9, [False] * 9, 0.95, [4] * 9)
    assert (alone["half_width"], alone["won"], alone["p_mcnemar"]) == (1.0, 1, 1.0)
    with pytest.raises(ValueError, match="no answers"):
        accuracy_interval([], 0.95)

"""Agreement and its resolvers: the truth table of methods.md 0 (g), and the closed form under independent errors."""

import numpy as np
import pytest

from tests.semisup.builders import ballot
from worker.semisup.answers import Answers
from worker.semisup.stages.agree import agree, by_majority, by_weighted_majority, dropped

LETTER = Answers("choice")


@pytest.mark.parametrize(
    ("votes", "settled"),
    [
        (("A", "A", "A", "A"), True),
        (("A", "A", "A", "B"), False),
        (("A", "A", "A", None), False),
        ((None, None, None, None), False),
        (("A",), True),
    ],
)
def test_only_votes_that_all_parsed_and_agree_settle_a_query(votes, settled):
    found = agree([ballot(*votes)], LETTER, "mean")
    assert (len(found.settled), len(found.disputed)) == (int(settled), int(not settled))


def test_confidence_is_the_mean_over_votes_or_the_first_votes_alone():
    votes = ballot("A", "A", nlls=(0.2, 0.6))
    assert agree([votes], LETTER, "mean").settled[0].mean_nll == pytest.approx(0.4)
    assert agree([votes], LETTER, "first").settled[0].mean_nll == 0.2


def test_with_share_a_small_sure_group_ranks_below_a_large_one():
    """exp(-mean_nll) is the share of the votes times their own probability; where all agree it is as with `mean`."""
    few, many = ballot("A", "B", "C", "D", nlls=(0.1, 0.5, 0.5, 0.5)), ballot("A", "A", "A", "B", nlls=(0.3, 0.3, 0.3, 0.3))
    ranked = {kind: [by_majority(votes, LETTER, kind).mean_nll for votes in (few, many)] for kind in ("mean", "share")}
    assert ranked["mean"] == pytest.approx([0.1, 0.3])
    assert np.exp([-nll for nll in ranked["share"]]) == pytest.approx([np.exp(-0.1) / 4, np.exp(-0.3) * 3 / 4])
    assert by_weighted_majority(many, LETTER, "share").mean_nll == ranked["share"][1]
    whole = ballot("A", "A", nlls=(0.2, 0.6))
    assert agree([whole], LETTER, "share").settled == agree([whole], LETTER, "mean").settled


def test_majority_counts_and_a_tie_goes_to_the_more_confident_side():
    assert by_majority(ballot("A", "B", "B", None), LETTER, "mean").answer == "B"
    tie = ballot("A", "A", "B", "B", nlls=(0.9, 0.9, 0.1, 0.1))
    assert by_majority(tie, LETTER, "mean").answer == "B"
    assert by_majority(tie, LETTER, "mean").agreement == 0.5


def test_one_sure_vote_can_outweigh_two_unsure_ones():
    votes = ballot("A", "A", "B", nlls=(3.0, 3.0, 0.1))
    assert by_majority(votes, LETTER, "mean").answer == "A"
    assert by_weighted_majority(votes, LETTER, "mean").answer == "B"


def test_dropping_leaves_no_answer():
    assert dropped(ballot("A", "B"), LETTER, "mean").answer is None
    assert by_majority(ballot(None, None), LETTER, "mean").answer is None


def test_accuracy_of_the_agreed_approaches_its_closed_form_under_independent_errors():
    """n=4 votes, 4 options, error rate e spread evenly: (1-e)^4 / ((1-e)^4 + 3 (e/3)^4)."""
    e, rng = 0.4, np.random.default_rng(7)
    wrong = rng.random((40_000, 4)) < e
    letters = np.where(wrong, rng.integers(1, 4, wrong.shape), 0)
    ballots = [ballot(*("ABCD"[i] for i in row), identity=f"u-{n}") for n, row in enumerate(letters)]
    settled = agree(ballots, LETTER, "mean").settled
    accuracy = sum(c.answer == "A" for c in settled) / len(settled)
    expected = (1 - e) ** 4 / ((1 - e) ** 4 + 3 * (e / 3) ** 4)
    assert accuracy == pytest.approx(expected, abs=0.01)

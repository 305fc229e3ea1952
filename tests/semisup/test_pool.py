"""The pool of votes: closed forms, the gate, and what becomes of a ballot."""

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from worker.semisup.answers import Answers
from worker.semisup.data import Ballot, Vote
from worker.semisup.stages import pool
from worker.semisup.stages.pool import EVEN_SHARE, distributions, fit_weights, pooled, settle_by_pool

LABELS = ("red", "blue", "green")
ANSWERS = Answers("label", LABELS)


def lm_vote(answer: str | None, probability: float, tokens: int = 2, name: str = "a") -> Vote:
    return Vote(name, answer or "?", answer, -math.log(probability) / tokens, tokens)


def view_vote(*scores: tuple[str, float], name: str = "logistic") -> Vote:
    return Vote(name, scores[0][0], scores[0][0], -math.log(scores[0][1]), 0, scores=scores)


def smoothed(*row: float) -> np.ndarray:
    return (1 - EVEN_SHARE) * np.array(row) + EVEN_SHARE / len(row)


def test_a_generated_vote_gives_its_answer_the_probability_of_the_whole_response():
    spoken = distributions([Ballot("u", (lm_vote("red", 0.8, tokens=4),))], LABELS)
    assert spoken[0, 0] == pytest.approx(smoothed(0.8, 0.1, 0.1))


def test_a_classifiers_vote_brings_its_own_probabilities_and_spreads_what_it_does_not_name():
    spoken = distributions([Ballot("u", (view_vote(("blue", 0.7), ("red", 0.2)),))], LABELS)
    assert spoken[0, 0] == pytest.approx(smoothed(0.2, 0.7, 0.1))


def test_a_vote_never_speaks_against_its_own_answer():
    """An unsure LM has much of its mass on texts that are no answer; a chain of reasoning is improbable as a whole."""
    unsure = distributions([Ballot("u", (lm_vote("red", 0.2),))], LABELS)
    assert unsure[0, 0] == pytest.approx([1 / 3] * 3)
    reasoned = Vote("a", "It glows in the dark. Answer: red", "red", 0.2, 12)
    unscored = Vote("b", "red", "red", 0.2, 12, scored=False)
    for vote in (reasoned, unscored):
        share = math.exp(-0.2)
        spoken = distributions([Ballot("u", (vote,))], LABELS)
        assert spoken[0, 0] == pytest.approx(smoothed(share, (1 - share) / 2, (1 - share) / 2))


def test_a_failed_vote_says_nothing():
    spoken = distributions([Ballot("u", (lm_vote(None, 0.9), lm_vote("red", 0.9)))], LABELS)
    assert spoken[0, 0] == pytest.approx([1 / 3] * 3)
    with_it, without = pooled(spoken, [1.0, 1.0]), pooled(spoken[1:], [1.0])
    assert with_it == pytest.approx(without)


def test_the_pool_is_the_normalised_weighted_product():
    spoken = np.array([[[0.6, 0.4]], [[0.2, 0.8]]])
    product = np.array([0.6**2 * 0.2**0.5, 0.4**2 * 0.8**0.5])
    assert pooled(spoken, [2.0, 0.5])[0] == pytest.approx(product / product.sum())
    assert pooled(spoken, [0.0, 0.0])[0] == pytest.approx([0.5, 0.5])


def population(right: tuple[float, ...], rows: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Voters that are 90 % sure of an answer that is right with their own probability, independently."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, rows)
    spoken = np.full((len(right), rows, 3), 0.05)
    for voter, share in enumerate(right):
        wrong = (truth + generator.integers(1, 3, rows)) % 3
        said = np.where(generator.random(rows) < share, truth, wrong)
        spoken[voter, np.arange(rows), said] = 0.9
    return spoken, truth.tolist()


def test_a_voter_that_knows_nothing_is_gated_out():
    spoken, truth = population((0.8, 1 / 3), 400)
    good, bad = fit_weights(spoken, truth)
    assert good > 0.5
    assert bad < 0.05


def test_a_few_rows_move_the_weights_less_than_many_that_say_the_same():
    spoken, truth = population((0.9, 0.6), 400)
    few, many = fit_weights(spoken[:, :40], truth[:40]), fit_weights(np.tile(spoken[:, :40], (1, 40, 1)), truth[:40] * 40)
    assert 0 < few[0] - few[1] < 0.8 * (many[0] - many[1])


def test_weights_make_the_pool_calibrated_where_votes_are_too_sure_of_themselves():
    spoken, truth = population((0.7,), 1000)
    (weight,) = fit_weights(spoken, truth)
    sure = pooled(spoken, [weight]).max(axis=1).mean()
    assert sure == pytest.approx(0.7, abs=0.04)  # the votes themselves said 0.9


def test_the_pool_of_two_is_better_than_either_on_rows_it_was_not_fitted_on():
    spoken, truth = population((0.75, 0.75), 400)
    fresh, gold = population((0.75, 0.75), 2000, seed=1)

    def nll(weights: list[float]) -> float:
        return float(-np.log(pooled(fresh, weights)[np.arange(len(gold)), gold]).mean())

    both = nll(list(fit_weights(spoken, truth)))
    alone = [nll([fit_weights(spoken[i : i + 1], truth)[0] if j == i else 0.0 for j in range(2)]) for i in range(2)]
    assert both < min(alone) - 0.02


def test_the_gradient_is_the_losses(monkeypatch):
    seen = {}

    def spy(loss, start, **options):
        seen["loss"] = loss
        return minimize(loss, start, **options)

    monkeypatch.setattr(pool, "minimize", spy)
    spoken, truth = population((0.8, 0.5, 0.4), 50)
    fit_weights(spoken, truth)
    at = np.array([0.3, 1.2, 0.1])
    assert seen["loss"](at)[1] == pytest.approx(approx_fprime(at, lambda w: seen["loss"](w)[0], 1e-7), abs=1e-4)


def test_without_calibration_rows_every_voter_counts_the_same():
    assert fit_weights(np.zeros((4, 0, 3)), []) == (0.25,) * 4


def test_a_ballot_becomes_its_most_probable_answer_with_its_confidence_and_agreement():
    ballot = Ballot("u-1", (lm_vote("red", 0.6), lm_vote("blue", 0.5, name="b"), view_vote(("blue", 0.9), ("red", 0.1))))
    weights = {"a": 0.2, "b": 0.2, "logistic": 1.0}
    (made,) = settle_by_pool([ballot], LABELS, ANSWERS, weights)
    expected = pooled(distributions([ballot], LABELS), [0.2, 0.2, 1.0])[0]
    assert (made.answer, made.response, made.resolved_by) == ("blue", "blue", "pool")
    assert made.mean_nll == pytest.approx(-math.log(expected[1]), abs=1e-6)
    assert made.agreement == pytest.approx(2 / 3)
    assert made.votes == ballot.votes


def test_reasoning_of_the_surest_lm_vote_is_kept_and_an_answer_no_lm_gave_stands_alone():
    reasoned = Vote("a", "It glows. Answer: red", "red", 0.1, 6)
    view = view_vote(("red", 0.9), ("blue", 0.1))
    (kept,) = settle_by_pool([Ballot("u", (reasoned, view))], LABELS, ANSWERS, {})
    assert kept.response == "It glows. Answer: red"
    (bare,) = settle_by_pool([Ballot("u", (lm_vote("green", 0.4), view))], LABELS, ANSWERS, {})
    assert (bare.answer, bare.response) == ("red", "red")


def test_a_row_with_fewer_options_is_never_answered_with_a_letter_it_does_not_have():
    letters, choice = ("A", "B", "C"), Answers("choice")
    ballots = [Ballot(name, (view_vote(("C", 0.8), ("B", 0.15), ("A", 0.05)),)) for name in ("two", "three")]
    two, three = settle_by_pool(ballots, letters, choice, {"logistic": 1.0}, {"two": 2, "three": 3})
    assert (two.answer, three.answer) == ("B", "C")
    row = pooled(distributions(ballots[:1], letters), [1.0])[0]
    assert two.mean_nll == pytest.approx(-math.log(row[1] / (row[0] + row[1])), abs=1e-6)
    assert two.agreement == 0.0

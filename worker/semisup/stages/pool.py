"""The pool: votes of any kind as distributions over a closed set, multiplied with weights measured on labeled rows.

A logarithmic opinion pool, log p(c) = sum_v w_v log p_v(c) - log Z (Genest and Zidek 1986), with w >= 0 fitted by maximum
likelihood on votes about labeled rows that the voters were not trained on. A useless view gets weight 0: the gate.
The weights' sum also sets how sharp the pool is, so that its confidence is calibrated where labels allow it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from worker.semisup.answers import Answers, is_reasoned
from worker.semisup.data import Ballot, Candidate, Vote

Floats = NDArray[np.float64]

EVEN_SHARE = 0.01  # of every distribution: no single vote can rule an answer out
PRIOR_ROWS = 12.0  # nats per squared distance of the weights from equal ones: few rows do not rank views (docs/LOG.md)
MAX_WEIGHT = 3.0
DECIMALS = 6


def distributions(ballots: Sequence[Ballot], classes: Sequence[str]) -> Floats:
    """(collaborators, ballots, classes): what each vote says of every class; a failed vote says nothing (uniform).

    A generated vote gives its answer the probability of its whole response, exp(-mean_nll * tokens), and the rest evenly to
    the others; but never less than an even share, for much of the rest is on texts that are no answer at all, and no vote
    speaks against its own. A classifier's vote brings its own probabilities.
    """
    place = {name: i for i, name in enumerate(classes)}
    voters = len(ballots[0].votes) if ballots else 0
    out = np.zeros((voters, len(ballots), len(classes)))
    for row, ballot in enumerate(ballots):
        for voter, vote in enumerate(ballot.votes):
            out[voter, row] = _distribution(vote, place)
    return (1 - EVEN_SHARE) * out + EVEN_SHARE / len(classes)


def _distribution(vote: Vote, place: Mapping[str, int]) -> Floats:
    count = len(place)
    own = ((vote.answer, max(probability(vote), 1 / count)),) if vote.answer is not None else ()
    said = vote.scores or own
    named = {place[name]: p for name, p in said if name in place}
    rest = max(0.0, 1.0 - sum(named.values()))
    row = np.full(count, rest / max(1, count - len(named)))
    for index, p in named.items():
        row[index] = p
    return row / row.sum() if row.sum() > 0 else np.full(count, 1.0 / count)


def probability(vote: Vote) -> float:
    """Of the whole response; of one of its tokens (the geometric mean) where reasoning leads it or log-probs are missing.

    How improbable a long chain of words was says nothing against what it ended with.
    """
    whole = vote.scored and not is_reasoned(vote.response)
    return math.exp(-vote.mean_nll * (max(1, vote.tokens) if whole else 1))


def pooled(spoken: Floats, weights: Sequence[float]) -> Floats:
    """(ballots, classes): the weighted logarithmic pool of (collaborators, ballots, classes)."""
    scores = np.tensordot(np.asarray(weights, np.float64), np.log(spoken), axes=1)
    scores -= scores.max(axis=1, keepdims=True)
    mass = np.exp(scores)
    return mass / mass.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def fit_weights(spoken: Floats, truth: Sequence[int]) -> tuple[float, ...]:
    """One weight per collaborator in [0, MAX_WEIGHT], rounded; equal ones where there is nothing to fit them on."""
    voters, rows, _ = spoken.shape
    equal = float(1.0 / voters)
    if not rows:
        return tuple(equal for _ in range(voters))
    log, index, target = np.log(spoken), np.arange(rows), np.asarray(truth)
    penalty = PRIOR_ROWS / rows

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = np.tensordot(weights, log, axes=1)  # (rows, classes)
        top = scores.max(axis=1, keepdims=True)
        mass = np.exp(scores - top)
        norm = mass.sum(axis=1, keepdims=True)
        nll = float((np.log(norm[:, 0]) + top[:, 0] - scores[index, target]).mean())
        slope = ((mass / norm)[None] * log).sum(axis=2).mean(axis=1) - log[:, index, target].mean(axis=1)
        away = weights - equal
        return nll + penalty * float(away @ away), slope + 2 * penalty * away

    found: Any = minimize(loss, np.full(voters, equal), jac=True, bounds=[(0.0, MAX_WEIGHT)] * voters, method="L-BFGS-B")
    return tuple(round(float(w), DECIMALS) for w in found.x)


def settle_by_pool(
    ballots: Sequence[Ballot],
    classes: Sequence[str],
    answers: Answers,
    weights: Mapping[str, float],
    options: Mapping[str, int] | None = None,
) -> list[Candidate]:
    """Every ballot's most probable answer. mean_nll is minus the log of its pooled probability.

    `options`: query id -> how many of the classes, from the first on, that row can be answered with; default: all.

    The response is that of the surest LM vote for the answer, reasoning and all; where no LM gave it, the answer itself.
    """
    if not ballots:
        return []
    names = [vote.collaborator for vote in ballots[0].votes]
    probability = pooled(distributions(ballots, classes), [weights.get(name, 1.0 / len(names)) for name in names])
    for ballot, row in zip(ballots, probability, strict=True):
        if options and (count := options.get(ballot.query_id, len(classes))) < len(classes):
            row[count:] = 0.0
            row /= row.sum()
    return [_candidate(ballot, row, classes, answers) for ballot, row in zip(ballots, probability, strict=True)]


def _candidate(ballot: Ballot, row: Floats, classes: Sequence[str], answers: Answers) -> Candidate:
    best = int(row.argmax())
    answer = classes[best]
    givers = [vote for vote in ballot.votes if vote.answer == answer]
    generated = [vote for vote in givers if vote.tokens]
    said = min(generated, key=lambda vote: vote.mean_nll).response if generated else answer
    return Candidate(
        query_id=ballot.query_id,
        response=answers.canonical(said, answer),
        answer=answer,
        mean_nll=round(-math.log(max(float(row[best]), 1e-12)), DECIMALS),
        agreement=len(givers) / len(ballot.votes),
        resolved_by="pool",
        votes=ballot.votes,
    )

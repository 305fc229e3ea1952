"""Rows about which the LM and every classifier contradict each other: the trace that an instruction inside a row leaves.

An LM reads a row as language and may obey it; a classifier on embeddings only sees what the row is like. Where the LM is sure
of an answer that no classifier takes seriously, one of them is badly wrong, and pooling them would hide that.
"""

from collections.abc import Sequence

from worker.semisup.data import Vote
from worker.semisup.stages.pool import probability

SURE = 0.9  # the LM's probability of its whole response
DENIED = 0.2  # of what a classifier gives its own answer: less than that for the LM's is a denial


def contradicted(votes: Sequence[Vote]) -> bool:
    """Whether the surest generated vote is sure and every classifier's vote denies its answer; False without classifiers."""
    generated = [vote for vote in votes if vote.tokens > 0 and vote.scored and vote.answer is not None]
    classifiers = [vote for vote in votes if vote.scores]
    if not generated or not classifiers:
        return False
    surest = max(generated, key=probability)
    return probability(surest) >= SURE and all(_denies(vote, surest.answer) for vote in classifiers)


def _denies(vote: Vote, answer: str | None) -> bool:
    """An answer that is not among those a classifier names is one it gives next to nothing."""
    return dict(vote.scores).get(str(answer), 0.0) < DENIED * vote.scores[0][1]

"""In-context propagation, first half: for every query the k nearest labeled examples by exact cosine."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.semisup.answers import Answers, normalise
from worker.semisup.data import Example, Neighbours, Query
from worker.semisup.lm import Lab
from worker.semisup.meaning import Meaning

BLOCK = 1024  # queries compared with all labeled examples at once


def neighbours_of(lab: Lab, queries: Sequence[Query], labeled: Sequence[Example], k: int) -> Neighbours:
    """The k nearest labeled examples of each query, nearest first; an example is never its own neighbour.

    "Its own" means the same id or the same text after normalisation, so pools that overlap do not leak answers.
    """
    found = nearest(
        lab.embed([q.question for q in queries]),
        lab.embed([e.query.question for e in labeled]),
        own=_own_rows(queries, labeled),
        k=k,
    )
    ids = {q.id: tuple(labeled[j].id for j, _ in row) for q, row in zip(queries, found, strict=True)}
    similarity = {q.id: tuple(s for _, s in row) for q, row in zip(queries, found, strict=True)}
    return Neighbours(ids, similarity)


def nearest(
    queries: NDArray[np.float32], labeled: NDArray[np.float32], *, own: Sequence[frozenset[int]], k: int
) -> list[list[tuple[int, float]]]:
    """Exact top k by cosine of unit rows: queries (n, d), labeled (m, d) -> n lists of (index, cosine), best first.

    `own[i]` holds the labeled rows that query i may not get. Ties go to the earlier labeled row.
    """
    out: list[list[tuple[int, float]]] = []
    for start in range(0, len(queries), BLOCK):
        similarity = np.round(queries[start : start + BLOCK] @ labeled.T, 6)  # (block, m)
        for offset, row in enumerate(similarity):
            barred = own[start + offset]
            order = [int(j) for j in np.argsort(-row, kind="stable")[: k + len(barred)] if int(j) not in barred]
            out.append([(j, float(row[j])) for j in order[:k]])
    return out


def knn_vote(
    neighbours: Neighbours,
    query: Query,
    labeled: Mapping[str, Example],
    answers: Answers,
    k: int,
    meaning: Meaning | None = None,
) -> tuple[str | None, float]:
    """(answer, its share) of the k nearest, each weighted by its similarity (floored at 0); ties go to the nearest one's.

    The share is in [0, 1] and smoothed by one neighbour's weight spread evenly, so that few neighbours are never certain.
    `meaning` has read the neighbours' answers; without it texts agree by match alone.
    """
    near = [labeled[i].answer for i in neighbours.ids[query.id][:k]]
    weights = [max(0.0, s) for s in neighbours.similarity[query.id][:k]]
    groups = [(sum(weights[i] for i in members), -members[0], form) for form, members in answers.group(near, meaning)]
    if not groups:
        return None, 0.0
    won, _, answer = max(groups)
    return answer, won / (sum(weights) + 1.0)


def _own_rows(queries: Sequence[Query], labeled: Sequence[Example]) -> list[frozenset[int]]:
    """For each query, the labeled rows that are the query itself, by id or by normalised text."""
    rows: dict[tuple[str, str], set[int]] = {}
    for j, example in enumerate(labeled):
        rows.setdefault(("id", example.id), set()).add(j)
        rows.setdefault(("text", normalise(example.query.question)), set()).add(j)
    none: set[int] = set()
    return [frozenset(rows.get(("id", q.id), none) | rows.get(("text", normalise(q.question)), none)) for q in queries]

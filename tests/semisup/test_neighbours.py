"""Exact cosine neighbours, and nobody is his own."""

import numpy as np
import pytest

from tests.semisup.builders import example, query
from worker.semisup.answers import Answers
from worker.semisup.data import Neighbours
from worker.semisup.stages.neighbours import knn_vote, nearest, neighbours_of


def test_nearest_equals_brute_force_on_three_dimensional_vectors():
    rng = np.random.default_rng(3)
    queries, labeled = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (rng.normal(size=(20, 3)), rng.normal(size=(30, 3)))
    )
    found = nearest(queries.astype(np.float32), labeled.astype(np.float32), own=[frozenset()] * 20, k=4)
    for row, query_row in zip(found, queries, strict=True):
        brute = sorted(range(30), key=lambda j: -float(query_row @ labeled[j]))[:4]
        assert [j for j, _ in row] == brute
        assert [s for _, s in row] == pytest.approx([float(query_row @ labeled[j]) for j in brute], abs=1e-5)


def test_barred_rows_are_replaced_by_the_next_nearest():
    rows = np.eye(3, dtype=np.float32)
    found = nearest(rows, rows, own=[frozenset({i}) for i in range(3)], k=2)
    assert all(i not in {j for j, _ in row} for i, row in enumerate(found))
    assert all(len(row) == 2 for row in found)


def test_an_example_is_never_its_own_neighbour_by_id_or_by_text(lab):
    labeled = [
        example("l-1", "Where is my card?", "a"),
        example("l-2", "My card is late", "a"),
        example("l-3", "Age limit?", "b"),
    ]
    leave_one_out = neighbours_of(lab, [e.query for e in labeled], labeled, 2)
    assert all(identity not in ids for identity, ids in leave_one_out.ids.items())
    same_text = neighbours_of(lab, [query("u-1", "  where is my CARD? ")], labeled, 2)
    assert "l-1" not in same_text.ids["u-1"]


def test_the_vote_weighs_neighbours_by_similarity_and_its_share_is_smoothed():
    labeled = {e.id: e for e in (example("l-1", "a", "x"), example("l-2", "b", "y"), example("l-3", "c", "y"))}
    answers = Answers("label", ("x", "y"))
    near = Neighbours({"q": ("l-1", "l-2", "l-3")}, {"q": (0.9, 0.5, 0.3)})
    assert knn_vote(near, query("q", "?"), labeled, answers, 3) == ("x", pytest.approx(0.9 / 2.7))
    closer = Neighbours({"q": ("l-1", "l-2", "l-3")}, {"q": (0.9, 0.6, 0.5)})
    assert knn_vote(closer, query("q", "?"), labeled, answers, 3) == ("y", pytest.approx(1.1 / 3.0))
    assert knn_vote(closer, query("q", "?"), labeled, answers, 1) == ("x", pytest.approx(0.9 / 1.9))

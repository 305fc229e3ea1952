"""Caps after the cut: what is near-identical or too much of one pseudo-label goes, the more confident row stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.semisup.selectors.caps import cap_classes, cap_near_duplicates

always = settings(max_examples=150, deadline=None, derandomize=True)


def classes(labels: str, share: float, nll=None, kept=None) -> str:
    """The labels that stay, in order."""
    n = len(labels)
    flags = np.ones(n, bool) if kept is None else np.array(kept, bool)
    out = cap_classes(flags, np.array(nll or range(n), float), np.array(list(labels)), share)
    return "".join(label for label, stays in zip(labels, out, strict=True) if stays)


@pytest.mark.parametrize(
    ("labels", "share", "left"),
    [
        ("aaaabb", 0.5, "aabb"),  # four rows are left, half of them a
        ("aaaaaabbcc", 0.5, "aaaabbcc"),
        ("aaaaaaaaab", 0.5, "ab"),
        ("aaab", 0.3, "ab"),  # two labels cannot both stay under 0.3: an equal share each
        ("aaaa", 0.1, "aaaa"),
        ("aabb", 1.0, "aabb"),
        ("", 0.5, ""),
    ],
)
def test_no_pseudo_label_is_more_than_its_share_of_what_is_left(labels, share, left):
    assert classes(labels, share) == left


def test_the_least_confident_rows_of_the_label_go_and_ties_go_to_the_earlier_row():
    out = cap_classes(np.ones(6, bool), np.array([0.5, 0.1, 0.9, 0.5, 0.2, 0.3]), np.array(list("aaaabb")), 0.5)
    assert out.tolist() == [True, True, False, False, True, True]


def test_rows_the_cut_dropped_count_for_nothing():
    assert classes("aaaabb", 0.5, kept=[1, 0, 0, 0, 1, 1]) == "abb"[:1] + "b"


@always
@given(st.text("abcd", min_size=1, max_size=60), st.floats(0.01, 1))
def test_any_class_cap_holds_and_drops_no_label_entirely(labels, share):
    left = classes(labels, share)
    assert set(left) == set(labels)
    most = max(left.count(label) for label in set(left))
    assert most <= max(share, 1 / len(set(labels))) * len(left) + 1e-6


def units(*angles: float) -> np.ndarray:
    return np.array([[np.cos(a), np.sin(a)] for a in np.radians(angles)], np.float32)


def test_the_most_confident_of_near_identical_rows_stay():
    nll = np.array([0.3, 0.1, 0.2, 0.9])
    embeddings = units(0, 1, 2, 90)
    assert cap_near_duplicates(np.ones(4, bool), nll, embeddings, 1, 0.99).tolist() == [False, True, False, True]
    assert cap_near_duplicates(np.ones(4, bool), nll, embeddings, 2, 0.99).tolist() == [False, True, True, True]
    assert cap_near_duplicates(np.ones(4, bool), nll, embeddings, 3, 0.99).all()


def test_rows_that_are_near_a_dropped_row_only_stay():
    """A chain 0°, 20°, 40°: its ends are far apart, and the middle one is least confident."""
    kept = cap_near_duplicates(np.ones(3, bool), np.array([0.1, 0.3, 0.2]), units(0, 20, 40), 1, 0.9)
    assert kept.tolist() == [True, False, True]


def test_embeddings_are_those_of_the_kept_rows():
    kept = np.array([False, True, True, False])
    assert cap_near_duplicates(kept, np.zeros(4), units(5, 5), 1, 1.0).tolist() == [False, True, False, False]


@always
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=40), st.integers(1, 3), st.randoms())
def test_no_kept_row_has_too_many_more_confident_ones_near_and_none_is_dropped_without_them(rows, most, random):
    angles, nll = [30.0 * a for a, _ in rows], np.array([n for _, n in rows], float)
    kept = cap_near_duplicates(np.ones(len(rows), bool), nll, units(*angles).reshape(-1, 2), most, 0.99)
    for angle in {a % 360 for a in angles}:
        here = [i for i, a in enumerate(angles) if a % 360 == angle]
        assert kept[here].sum() == min(most, len(here))
        assert max(nll[here][kept[here]]) <= min(nll[here][~kept[here]], default=np.inf)


def test_blocks_give_what_one_comparison_gives(monkeypatch):
    generator = np.random.Generator(np.random.Philox(3))
    embeddings = generator.normal(size=(300, 3))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    nll = generator.random(300)
    whole = cap_near_duplicates(np.ones(300, bool), nll, embeddings, 2, 0.95)
    monkeypatch.setattr("worker.semisup.selectors.caps.BLOCK", 7)
    assert (cap_near_duplicates(np.ones(300, bool), nll, embeddings, 2, 0.95) == whole).all()
    assert 0 < whole.sum() < 300

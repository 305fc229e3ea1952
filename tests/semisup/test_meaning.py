"""What counts as the same meaning: the rules before the cosine, the clustering, and how both fare on written pairs."""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.semisup.answers import Answers
from worker.semisup.meaning import Meaning, cluster, may_agree, read_meaning
from worker.semisup.spec import TextAnswer

PAIRS = Path(__file__).parent / "data" / "meaning_pairs.csv"


@pytest.mark.parametrize(
    ("left", "right", "may"),
    [
        ("12 may", "13 may", False),
        ("12th of may", "13th of may", False),
        ("from 5 to 10", "from 10 to 5", False),
        ("it costs 1,200 dollars", "it costs 1200.0 dollars in all", True),
        ("-5 degrees", "5 degrees outside", False),
        ("pages 20-25", "pages 20 - 25 of it", True),
        ("two apples", "three apples", False),
        ("two apples", "2 red apples", True),
        ("the second answer", "the third answer given", False),
        ("the red one", "red is right", True),
        ("9" * 30 + "1", "9" * 30 + "2 or so", False),
        ("yes", "no", False),
        ("it works", "it does not work", False),
        ("it works", "it doesn’t work here", False),
        ("it cannot work", "it won't work here", True),
        ("that is false", "that is true of it", False),
        ("the card was blocked", "someone unblocked the card", False),
        ("put it to the test", "put this thing into the test", True),
        ("on monday", "it is a tuesday", False),
        ("turn left at the lights", "at the lights you turn right", False),
        ("the door is open", "the door is closed", False),
        ("red", "blue", False),
        ("the refund", "refunds", True),
        ("the buyer pays the seller", "the seller pays the buyer", False),
        ("the capital is paris", "paris is the capital", True),
        ("paris", "the capital is paris", True),
        ("", "anything", True),
    ],
)
def test_which_texts_are_kept_apart_whatever_their_cosine(left, right, may):
    assert may_agree(left, right) is may
    assert may_agree(right, left) is may
    assert may_agree(left, left)
    assert Meaning({}).similarity(left, left) == 1.0


def test_the_default_similarity_on_pairs_that_the_rules_were_not_written_with(lab):
    """docs/answers.md shows the counts: 14 of 20 paraphrases found, 5 of 25 contrasts taken for the same, 11 without rules."""
    rows = [row for row in csv.DictReader(PAIRS.read_text(encoding="utf-8").splitlines()) if row["seen"] == "no"]
    pairs = {kind: [(row["left"], row["right"]) for row in rows if row["same"] == kind] for kind in ("yes", "no")}
    meaning = read_meaning(lab.embed, [*pairs["yes"], *pairs["no"]])
    answers = Answers("text", min_similarity=TextAnswer().min_similarity)
    agreeing = {kind: sum(answers.same(*pair, meaning) for pair in of) for kind, of in pairs.items()}
    bare = sum(float(meaning.rows[a] @ meaning.rows[b]) >= TextAnswer().min_similarity for a, b in pairs["no"])
    assert (len(pairs["yes"]), len(pairs["no"])) == (20, 25)
    assert agreeing["yes"] >= 14
    assert agreeing["no"] <= 5
    assert bare >= 2 * agreeing["no"]


class Plane:
    """Texts as points of the unit circle, by their angle in degrees: cosines that a reader can check. Records its calls."""

    def __init__(self, **degrees: float) -> None:
        self.degrees, self.calls = degrees, []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        angles = np.radians([self.degrees[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def all(self) -> Meaning:
        return read_meaning(self, [tuple(self.degrees)])


def test_every_distinct_text_that_needs_comparing_is_embedded_once_and_in_one_call():
    plane = Plane(alpha=0, beta=10, gamma=20)
    meaning = read_meaning(plane, [("alpha", "alpha", None), ("beta", "gamma"), ("gamma", "beta", "beta"), (None, None)])
    assert plane.calls == [["beta", "gamma"]]
    assert meaning.similarity("beta", "gamma") == 0.0 - np.inf  # one word against one word: a contrast
    assert read_meaning(plane, [("alpha",)]).rows == {}
    assert len(plane.calls) == 1
    assert Answers("text").meaning(plane, [("beta", "gamma")]) is None
    assert Answers("label", ("beta", "gamma")).meaning(plane, [("beta", "gamma")]) is None


def test_a_cluster_is_held_together_by_its_mean_similarity_and_every_vote_counts():
    """cos 30° = 0.866, cos 60° = 0.5. a+b merge; c joins a, b at (0.5 + 0.866) / 2 = 0.683, with b twice at 0.744."""
    a, b, c = "alpha", "beta text", "gamma of some words"
    meaning = Plane(**{a: 0, b: 30, c: 60}).all()
    assert cluster([a, b, c], meaning, 0.7) == [[0, 1], [2]]
    assert cluster([a, b, c], meaning, 0.68) == [[0, 1, 2]]
    assert cluster([a, b, c, b], meaning, 0.7) == [[0, 1, 2, 3]]
    assert cluster([c, a, b], meaning, 0.7) == [[0, 2], [1]]  # both pairs at 0.866: the first to appear


def test_two_texts_that_are_kept_apart_are_in_no_cluster_together_however_many_stand_between_them():
    texts = ["the treaty was signed in 1648", "so it was signed in the year of 1648", "it was signed in 1649 then"]
    meaning = Plane(**{text: 0 for text in texts}).all()
    assert cluster([*texts, *texts[:2] * 6], meaning, 0.0) == [[0, 1, *range(3, 15)], [2]]


ANGLES = st.lists(st.floats(0, 90, allow_nan=False).map(lambda x: round(x, 3)), min_size=1, max_size=7, unique=True)


@given(angles=ANGLES, least=st.floats(0.1, 1.0), data=st.data())
def test_the_partition_of_texts_does_not_depend_on_the_order_of_the_votes(angles, least, data):
    names = ["word " * (i + 1) + "end" for i in range(len(angles))]  # of different lengths, so no rule keeps them apart
    meaning = Plane(**dict(zip(names, angles, strict=True))).all()
    cosines = sorted(meaning.similarity(a, b) for i, a in enumerate(names) for b in names[:i])
    if any(y - x < 1e-4 for x, y in pairwise(cosines)):
        return  # a tie, which order of appearance settles
    votes = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=8))
    shuffled = data.draw(st.permutations(votes))

    def partition(texts: Sequence[str]) -> set[tuple[str, ...]]:
        return {tuple(sorted(texts[i] for i in members)) for members in cluster(texts, meaning, least)}

    assert partition(votes) == partition(shuffled)


def test_embeddings_are_the_same_inside_an_autocast_block(lab):
    texts = ["the order was shipped", "your parcel is on its way"]
    with torch.autocast("cpu", torch.bfloat16):
        inside = lab.embed(texts)
    np.testing.assert_array_equal(inside, lab.embed(texts))

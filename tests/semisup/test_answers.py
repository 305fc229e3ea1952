"""Strict parsing: unreadable is None, and None never agrees."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.semisup.builders import example, query
from worker.semisup.answers import Answers, resolve_answers, with_answers
from worker.semisup.errors import DataError
from worker.semisup.spec import AutoAnswer, LabelAnswer

PLAIN = query("u-1", "which?")
OPTIONS = query("u-1", "which?", ("negative", "neutral", "positive"))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (C) ", "C"),
        ("B. neutral", "B"),
        ("Sales fell, so. Answer: A", "A"),
        ("Answer: A\nAnswer: C", "C"),
        ("neutral", "B"),
        ("Neutral.", "B"),
        ("D", None),
        ("A or B", None),
        ("Both are", None),
        ("", None),
        ("probably neutral", None),
    ],
)
def test_choice(response, answer):
    assert Answers("choice").parse(response, OPTIONS) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("card_arrival", "card_arrival"),
        ("card _ arrival", "card_arrival"),
        ("CARD_ARRIVAL.", "card_arrival"),
        ("Answer: age_limit", "age_limit"),
        ("card", None),
        ("card_arrival age_limit", None),
        ("", None),
    ],
)
def test_label(response, answer):
    assert Answers("label", ("card_arrival", "age_limit")).parse(response, PLAIN) == answer


def test_a_label_that_only_spaces_tell_apart_is_not_guessed():
    answers = Answers("label", ("a b", "ab"))
    assert answers.parse("ab", PLAIN) == "ab"
    assert answers.parse("a  b", PLAIN) == "a b"
    assert Answers("label", ("a b", "a  b".replace("  ", " _"), "ab")).parse("a b", PLAIN) == "a b"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("42", "42"),
        ("007", "7"),
        ("-3.50", "-3.5"),
        ("1,234,567.0", "1234567"),
        ("He has 3 and gets 4.\n#### 7", "7"),
        ("So 3 + 4. Answer: 7", "7"),
        ("Answer: 7. He had 3 of them.", "7"),
        ("Answer: approx. 7 km.", "7"),
        ("The answer is 7.5 (7.50)", "7.5"),
        ("Answer: \u22125", "-5"),
        ("-$5.20", "-5.2"),
        ("Answer: $-5", "-5"),
        ("Total:5", "5"),
        ("Answer: -0", "0"),
        ("3 or 4", None),
        ("Answer: 3 or 4", None),
        ("Answer: 3-4", None),
        ("#### 2 + 2 = 4", None),
        ("Answer: 1/2", None),
        ("Answer: 2/2", None),
        ("Answer: 5:30", None),
        ("12/05/2020", None),
        ("1e999", None),
        ("١٢٣", None),
        ("none", None),
        ("9" * 70, None),
        ("1.2.3", None),
        ("__import__('os')", None),
    ],
)
def test_number(response, answer):
    assert Answers("number").parse(response, PLAIN) == answer


def test_text_is_equal_after_normalisation_and_empty_is_unreadable():
    answers = Answers("text")
    assert answers.parse("  Paris. ", PLAIN) == answers.parse("PARIS", PLAIN) == "paris"
    assert answers.parse("  ", PLAIN) is None


def test_a_failed_vote_agrees_with_nothing_not_even_another_failed_vote():
    answers = Answers("choice")
    assert not answers.same(None, None)
    assert answers.group([None, None, None, None]) == []


def test_numbers_agree_within_their_tolerance():
    answers = Answers("number", tolerance=0.01)
    assert answers.same("1.005", "1.01")
    assert not answers.same("1.005", "1.02")
    assert answers.group(["1.00", "5", "1.01"]) == [("1.00", [0, 2]), ("5", [1])]


def test_numbers_agree_within_a_share_of_the_larger_one_or_the_absolute_tolerance():
    relative = Answers("number", relative_tolerance=0.1)
    assert relative.same("90", "100")
    assert relative.same("100", "90")
    assert relative.same("-100", "-90")
    assert not relative.same("89.9", "100")
    assert not relative.same("-1", "1")
    assert not relative.same("0", "0.001")
    either = Answers("number", tolerance=0.5, relative_tolerance=0.1)
    assert either.same("0", "0.5")
    assert either.same("90", "100")
    assert not either.same("0", "0.6")


def test_of_numbers_that_are_near_in_a_chain_the_largest_set_that_agrees_throughout_is_the_group():
    """Tolerance is not transitive: 8.9 ~ 9.8 ~ 10.4, and 8.9 is not near 10.4."""
    answers = Answers("number", tolerance=1.0)
    assert answers.group(["9.8", "8.9", "10.4", "10.4"]) == [("9.8", [0, 2, 3]), ("8.9", [1])]
    assert answers.group(["10.4", "9.8", "10.4", "8.9"]) == [("10.4", [0, 1, 2]), ("8.9", [3])]
    assert answers.group(["1", "2", "2.5"]) == [("2", [1, 2]), ("1", [0])]  # as many in 1, 2: the smaller spread
    assert answers.group(["1", "2", "3"]) == [("1", [0, 1]), ("3", [2])]  # as near: the lower


VALUES = st.one_of(st.integers(-20, 20), st.integers(-2000, 2000).map(lambda n: n / 100)).map(str)


@given(
    votes=st.lists(VALUES, min_size=1, max_size=8),
    tolerance=st.sampled_from([0.0, 0.01, 1.0, 7.5]),
    relative=st.sampled_from([0.0, 0.05, 0.5, 0.99]),
    data=st.data(),
)
def test_groups_of_numbers_do_not_depend_on_vote_order_and_agree_throughout(votes, tolerance, relative, data):
    answers = Answers("number", tolerance=tolerance, relative_tolerance=relative)

    def partition(given: Sequence[str | None]) -> list[list[Fraction]]:
        return sorted(sorted(Fraction(given[i] or "") for i in members) for _, members in answers.group(given))

    shuffled = data.draw(st.permutations([*votes, None]))
    assert partition(shuffled) == partition(votes)
    groups = answers.group(votes)
    assert sorted(i for _, members in groups for i in members) == list(range(len(votes)))
    assert all(form == votes[members[0]] for form, members in groups)
    assert all(answers.same(votes[i], votes[j]) for _, members in groups for i in members for j in members)
    agreed = all(answers.same(left, right) for left in votes for right in votes)
    assert (len(groups) == 1) is agreed
    largest = max(sum(answers.same(low, v) and Fraction(v) >= Fraction(low) for v in votes) for low in votes)
    assert len(groups[0][1]) == largest


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([example("l-1", "q", "A", ("x", "y")), example("l-2", "r", "B", ("x", "y"))], "choice"),
        ([example("l-1", "q", "4"), example("l-2", "r", "-5.5")], "number"),
        ([example(f"l-{i}", f"q{i}", ("red", "blue")[i % 2]) for i in range(6)], "label"),
        ([example(f"l-{i}", f"q{i}", f"a long answer number {i}") for i in range(6)], "text"),
    ],
)
def test_auto_finds_the_kind_from_the_labeled_rows(rows, kind):
    assert resolve_answers(AutoAnswer(), rows).kind == kind


def test_a_labeled_row_outside_the_label_set_is_named_with_what_is_allowed():
    answers = resolve_answers(LabelAnswer(labels=("red", "blue")), ())
    with pytest.raises(DataError, match=r"l-7.*'green'.*red, blue") as caught:
        with_answers([example("l-7", "q", "green")], answers, file="training_file")
    assert caught.value.param == "training_file"

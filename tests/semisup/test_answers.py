"""Strict parsing: unreadable is None, and None never agrees."""

import pytest

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
        ("3 or 4", None),
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

"""Rows cut into parts: the shares hold, and rows that ask the same are never on both sides."""

from collections import Counter

import pytest

from tests.semisup.builders import example
from worker.semisup.splits import stratified_folds, stratified_split, systematic_split

SPLITS = [stratified_split, systematic_split]
TWINS = [example(f"t-{i}", f"Row  {i % 20}" if i < 20 else f"row {i % 20}", "ab"[i % 2]) for i in range(40)]


def asked(rows) -> set[str]:
    return {" ".join(row.query.question.casefold().split()) for row in rows}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_share_holds_in_all_and_for_every_answer(share):
    answers = ["a"] * 31 + ["b"] * 17 + ["c"] * 5 + [f"rare-{i}" for i in range(20)]
    given = [example(f"t-{i}", f"row {i}", answer) for i, answer in enumerate(answers)]
    rest, drawn = systematic_split(given, share, seed=3)
    assert sorted([*rest, *drawn], key=given.index) == given
    assert len(drawn) == int(share * len(given))
    counts = Counter(e.answer for e in drawn)
    assert all(abs(counts[answer] - share * answers.count(answer)) <= 1 for answer in "abc")
    assert list(drawn) == sorted(drawn, key=given.index)


def test_a_stratified_split_leaves_one_of_each_answer():
    given = [example(f"t-{i}", f"row {i}", answer) for i, answer in enumerate("aaaaaaaabbbbc")]
    rest, drawn = stratified_split(given, 0.9, seed=3)
    assert {e.answer for e in rest} == {"a", "b", "c"}
    assert Counter(e.answer for e in drawn) == {"a": 7, "b": 3}
    assert sorted([*rest, *drawn], key=given.index) == given


@pytest.mark.parametrize("cut", SPLITS)
def test_rows_that_ask_the_same_go_the_same_way(cut):
    rest, drawn = cut(TWINS, 0.5, seed=1)
    assert len(rest) == len(drawn) == 20
    assert not asked(rest) & asked(drawn)


def test_also_where_every_answer_occurs_once_or_copies_contradict_each_other():
    given = [example(f"l-{i}", f"row {i // 2}", f"answer {i}") for i in range(12)]
    rest, drawn = stratified_split(given, 0.34, seed=2)
    assert (len(rest), len(drawn)) == (8, 4)
    assert not asked(rest) & asked(drawn)


def test_rows_that_ask_the_same_are_in_one_fold():
    folds = stratified_folds(TWINS, 3, seed=5)
    assert sorted(i for fold in folds for i in fold) == list(range(40))
    groups = [asked(TWINS[i] for i in fold) for fold in folds]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20
    assert max(map(len, groups)) - min(map(len, groups)) <= 1

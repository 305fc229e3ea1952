"""The arms without an LM, on embeddings where the right answer can be seen."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.quality.cheap import CHEAP, FOLDS, VARIANTS, _fit, _folds, _self_train
from tests.semisup.builders import example, query
from worker.semisup.answers import Answers
from worker.semisup.data import Split
from worker.semisup.stages.views import self_trained

PLACES = {"north": (0.0, 1.0), "east": (1.0, 0.0), "north-east": (0.8, 0.6), "border": (0.68, 0.73)}


def embed(texts):
    return np.array([PLACES[text.split()[0]] for text in texts], np.float32)


@pytest.fixture
def task():
    labeled = [example(f"l-{i}", f"{place} {i}", place) for i, place in enumerate(("north", "east") * 3 + ("north",))]
    pool = [query(f"u-{i}", f"{place} {9 + i}") for i, place in enumerate(("north", "east") * 4)]
    return SimpleNamespace(
        lab=SimpleNamespace(embed=embed),
        split=Split(tuple(labeled), tuple(pool), ()),
        labeled={e.id: e for e in labeled},
        answers=Answers("label", ("north", "east")),
        spec=SimpleNamespace(seed=3),
    )


def test_the_majority_is_the_most_frequent_label(task):
    assert CHEAP["majority"](task, task.split.unlabeled[:2]) == ["north", "north"]


@pytest.mark.parametrize("name", ["knn", "logistic", "logistic_self_training", "logistic_self_training_weighted"])
def test_near_rows_get_their_neighbours_answer(task, name):
    asked = [query("t-1", "north x"), query("t-2", "east x"), query("t-3", "north-east x")]
    assert CHEAP[name](task, asked) == ["north", "east", "east"]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_self_training_moves_the_border_to_where_the_pool_is(name):
    x, y = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), np.array(["a", "b"])
    pool = np.array([[0.05, 1.0]] * 6 + [[0.6, 0.8]] * 6, np.float32)
    point = np.array([[0.72, 0.69]], np.float32)
    before, after = _fit(x, y), _self_train(x, y, pool, VARIANTS[name])
    assert before.predict(point) == ["b"]
    assert after.predict_proba(point)[0, 0] > before.predict_proba(point)[0, 0]


def test_without_a_pool_self_training_is_the_plain_fit():
    x, y = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), np.array(["a", "b"])
    for variant in VARIANTS.values():
        assert np.allclose(_self_train(x, y, np.zeros((0, 2), np.float32), variant).coef_, _fit(x, y).coef_)


def test_the_weighted_self_training_is_the_one_of_a_jobs_report(task):
    """On a row that the plain fit and the product's own tell apart."""
    pool = tuple(query(f"u-{i}", f"{'north-east' if i else 'north'} {9 + i}") for i in range(9))
    task.split = Split(task.split.labeled[:2], pool, ())
    asked = [query("t-1", "north-east x"), query("t-2", "border x"), query("t-3", "north x")]
    found = CHEAP["logistic_self_training_weighted"](task, asked)
    units = np.concatenate([embed([e.query.question for e in task.split.labeled]), embed([q.question for q in pool])])
    product = self_trained(units, [0, 1], ["north", "east"])
    assert found == product.predict(embed([q.question for q in asked])).tolist()
    assert found != CHEAP["logistic"](task, asked)


def test_folds_spread_every_answer():
    y = np.array(["a"] * 6 + ["b"] * 3)
    fold = _folds(y, 1)
    assert sorted(fold[:6].tolist()) == [0, 0, 1, 1, 2, 2]
    assert sorted(fold[6:].tolist()) == list(range(FOLDS))

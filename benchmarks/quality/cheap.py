"""Arms without an LM: (task, queries) -> one answer per query. None of them sees an answer that is not labeled."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from worker.semisup.data import Example, Query
from worker.semisup.seeds import derive_seed
from worker.semisup.stages.evaluate import evaluate_classifier
from worker.semisup.stages.neighbours import knn_vote, neighbours_of
from worker.semisup.stages.views import one_thread
from worker.semisup.task import Task

Answered = list[str | None]
Matrix = NDArray[np.float32]
Variant = Callable[["LogisticRegression", Matrix, NDArray[np.str_], Matrix], LogisticRegression]

K = 5
C = 10.0
FOLDS = 3
PASSES = 5


def majority(task: Task, queries: Sequence[Query]) -> Answered:
    """The most frequent labeled answer; ties go to the first in the file."""
    return [Counter(e.answer for e in task.split.labeled).most_common(1)[0][0]] * len(queries)


def knn(task: Task, queries: Sequence[Query]) -> Answered:
    """The product's own similarity-weighted vote of the K nearest labeled rows."""
    near = neighbours_of(task.lab, queries, task.split.labeled, K)
    return [knn_vote(near, query, task.labeled, task.answers, K)[0] for query in queries]


@one_thread()
def logistic(task: Task, queries: Sequence[Query]) -> Answered:
    x, y = _labeled(task)
    return _answers(_fit(x, y), _embed(task, queries))


@one_thread()
def logistic_self_training(task: Task, queries: Sequence[Query]) -> Answered:
    """Logistic regression taught by its own pseudo-labels; the variant is the best one in cross-validation on the labels."""
    x, y = _labeled(task)
    pool = _embed(task, task.split.unlabeled)
    fold = _folds(y, derive_seed(task.spec.seed, "cheap", "folds"))

    def score(name: str) -> tuple[float, str]:
        right = 0
        for left_out in range(FOLDS):
            train, test = fold != left_out, fold == left_out
            if test.any() and len(set(y[train])) > 1:
                right += int((_self_train(x[train], y[train], pool, VARIANTS[name]).predict(x[test]) == y[test]).sum())
        return right / len(y), name

    best = max(VARIANTS, key=lambda name: score(name)[0])  # ties go to the first
    return _answers(_self_train(x, y, pool, VARIANTS[best]), _embed(task, queries))


def logistic_self_training_weighted(task: Task, queries: Sequence[Query]) -> Answered:
    """The product's own: the classifier on embeddings of a job's report, which the default has among its voters too."""
    return [said.answer for said in evaluate_classifier(task, [Example(query, "", "") for query in queries])]


def _all(classifier: LogisticRegression, x: Matrix, y: NDArray[np.str_], pool: Matrix) -> LogisticRegression:
    """One more fit on every pseudo-label."""
    return _fit(np.concatenate([x, pool]), np.concatenate([y, classifier.predict(pool)]))


def _half(classifier: LogisticRegression, x: Matrix, y: NDArray[np.str_], pool: Matrix) -> LogisticRegression:
    """One more fit on the more confident half."""
    sure = classifier.predict_proba(pool).max(1)
    kept = np.argsort(-sure, kind="stable")[: (len(pool) + 1) // 2]
    return _fit(np.concatenate([x, pool[kept]]), np.concatenate([y, classifier.predict(pool[kept])]))


def _threshold(
    least: float, classifier: LogisticRegression, x: Matrix, y: NDArray[np.str_], pool: Matrix
) -> LogisticRegression:
    """Up to PASSES fits, each on what the one before was sure of (Yarowsky 1995)."""
    kept: NDArray[np.bool_] = np.zeros(len(pool), bool)
    for _ in range(PASSES):
        now = classifier.predict_proba(pool).max(1) >= least
        if (now == kept).all():
            break
        kept = now
        classifier = (
            _fit(np.concatenate([x, pool[kept]]), np.concatenate([y, classifier.predict(pool[kept])]))
            if kept.any()
            else classifier
        )
    return classifier


VARIANTS: Mapping[str, Variant] = {"all": _all, "half": _half, "threshold": partial(_threshold, 0.5)}
CHEAP: Mapping[str, Callable[[Task, Sequence[Query]], Answered]] = {
    "majority": majority,
    "knn": knn,
    "logistic": logistic,
    "logistic_self_training": logistic_self_training,
    "logistic_self_training_weighted": logistic_self_training_weighted,
}


def _self_train(x: Matrix, y: NDArray[np.str_], pool: Matrix, variant: Variant) -> LogisticRegression:
    first = _fit(x, y)
    return variant(first, x, y, pool) if len(pool) else first


def _fit(x: Matrix, y: NDArray[np.str_]) -> LogisticRegression:
    return LogisticRegression(C=C, max_iter=2000).fit(x, y)


def _labeled(task: Task) -> tuple[Matrix, NDArray[np.str_]]:
    """((labeled, 384) unit rows, (labeled,) answers)"""
    labeled = task.split.labeled
    return _embed(task, [e.query for e in labeled]), np.array([e.answer for e in labeled], np.str_)


def _embed(task: Task, queries: Sequence[Query]) -> Matrix:
    return task.lab.embed([query.question for query in queries])


def _answers(classifier: LogisticRegression, x: Matrix) -> Answered:
    return [str(answer) for answer in classifier.predict(x)] if len(x) else []


def _folds(y: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """A fold number for each row, each answer's rows spread over the folds in a seeded order."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(y))
    fold = np.zeros(len(y), np.int64)
    turn: Counter[str] = Counter()
    for row in order:
        fold[row] = turn[y[row]] % FOLDS
        turn[y[row]] += 1
    return fold

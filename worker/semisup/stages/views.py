"""Classifiers in the space of sentence embeddings: collaborators that err otherwise than the LM does.

Each is a pure function `(units, taught, classes, count, k) -> (n, count)`: probabilities of every row, from unit embeddings
(n, d), the indices of the labeled rows and their classes. Transductive ones also look at the unlabeled rows' places, never at
an answer of theirs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from worker.semisup.answers import LETTERS, Answers
from worker.semisup.data import Example, Query, Views
from worker.semisup.lm import Lab
from worker.semisup.spec import Collaborator

Floats = NDArray[np.float64]
View = Callable[[NDArray[np.float32], Sequence[int], Sequence[int], int, int], Floats]

SHOWN = 10  # classes of a vote that are kept by name; the rest of the mass is spread evenly over the others
DECIMALS = 6
INVERSE_PENALTY = 10.0  # of logistic regression, for unit vectors; measured on dev draws (quality.md part 2, docs/LOG.md)
ALPHA, ITERATIONS, SHARPNESS = 0.8, 50, 3  # label propagation: share taken from neighbours; weight of an edge is cosine ** 3
DEFAULT_K = 10
TURNS = 3  # of self-training
BLOCK = 1024


def class_names(answers: Answers, labeled: Sequence[Example]) -> tuple[str, ...]:
    """The closed set: the labels, or the letters of as many options as a labeled row has."""
    if answers.kind == "choice":
        return tuple(LETTERS[: max(len(example.query.options) for example in labeled)])
    return answers.labels


@contextmanager
def one_thread() -> Iterator[None]:
    """Numpy's BLAS on one thread: fits of a few hundred rows took eight times as long on two, beside other work forty times."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@one_thread()
def views_of(
    lab: Lab,
    labeled: Sequence[Example],
    folds: Sequence[Sequence[int]],
    queries: Sequence[Query],
    classes: Sequence[str],
    collaborators: Sequence[Collaborator],
) -> Views:
    """What every classifier among `collaborators` says of `queries` and, not having seen them, of each fold's labeled rows.

    `folds` are indices into `labeled`; rows of no fold teach only.
    """
    asked = [c for c in collaborators if c.view in VIEWS]
    if not asked:
        return Views({})
    units = np.concatenate([lab.embed([e.query.question for e in labeled]), lab.embed([q.question for q in queries])])
    number = {name: i for i, name in enumerate(classes)}
    known = [number[e.answer] for e in labeled]
    tables: dict[str, dict[str, tuple[tuple[str, float], ...]]] = {}
    for collaborator in asked:
        view, k = VIEWS[collaborator.view], collaborator.k or DEFAULT_K
        table = tables.setdefault(collaborator.name, {})
        everyone = list(range(len(labeled)))
        seen = view(units, everyone, known, len(classes), k)[len(labeled) :]
        table.update((q.id, shown(row, classes)) for q, row in zip(queries, seen, strict=True))
        for fold in folds:
            rest = sorted(set(everyone) - set(fold))
            unseen = view(units, rest, [known[i] for i in rest], len(classes), k)
            table.update((labeled[i].id, shown(unseen[i], classes)) for i in fold)
    return Views(tables)


def self_training(units: NDArray[np.float32], taught: Sequence[int], classes: Sequence[int], count: int, k: int) -> Floats:
    """Logistic regression that goes on with its own answers to all other rows: see `self_trained`."""
    return _said(self_trained(units, taught, classes), units, classes, count)


def logistic(units: NDArray[np.float32], taught: Sequence[int], classes: Sequence[int], count: int, k: int) -> Floats:
    """Multinomial logistic regression on the labeled embeddings. One class alone is certain of itself."""
    return _said(_fitted(units[list(taught)], list(classes)), units, classes, count)


def self_trained(units: NDArray[np.float32], taught: Sequence[int], classes: Sequence[Any]) -> LogisticRegression | None:
    """Logistic regression on rows `taught`, then TURNS times on all rows, its own answers weighted by how sure it was of them.

    (n, d) units -> a classifier of the values in `classes`; None where there is but one of them.
    """
    fitted = _fitted(units[list(taught)], list(classes))
    others = np.setdiff1d(np.arange(len(units)), np.asarray(taught))
    if fitted is None or not len(others):
        return fitted
    rows = np.concatenate([np.asarray(taught), others])
    for _ in range(TURNS):
        said = fitted.predict_proba(units)[others]
        known = np.concatenate([np.asarray(classes), fitted.classes_[said.argmax(axis=1)]])
        sure = np.concatenate([np.ones(len(taught)), said.max(axis=1)])
        fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(units[rows], known, sample_weight=sure)
    return fitted


def _fitted(units: NDArray[np.float32], classes: Sequence[Any]) -> LogisticRegression | None:
    return LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(units, classes) if len(set(classes)) > 1 else None


def _said(fitted: LogisticRegression | None, units: NDArray[np.float32], classes: Sequence[int], count: int) -> Floats:
    out = np.zeros((len(units), count))
    if fitted is None:
        out[:, classes[0]] = 1.0
    else:
        out[:, fitted.classes_] = fitted.predict_proba(units)
    return out


def label_propagation(units: NDArray[np.float32], taught: Sequence[int], classes: Sequence[int], count: int, k: int) -> Floats:
    """Local and global consistency (Zhou et al. 2004) on the graph of the k nearest rows, symmetric, classes of equal mass.

    scikit-learn's LabelSpreading has neither cosine weights nor a symmetric graph in its kNN kernel, hence these lines.
    """
    graph = nearest_graph(units, k)
    degree = np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1e-9)
    scaled = csr_matrix(graph.multiply(1 / np.sqrt(degree)[:, None]).multiply(1 / np.sqrt(degree)[None, :]))
    start = np.zeros((len(units), count))
    start[list(taught), list(classes)] = 1.0
    start /= np.maximum(start.sum(axis=0, keepdims=True), 1.0)
    field = start
    for _ in range(ITERATIONS):
        field = ALPHA * (scaled @ field) + (1 - ALPHA) * start
    field = field + 1e-6  # a row that nothing reaches knows nothing
    return field / field.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def nearest_graph(units: NDArray[np.float32], k: int) -> csr_matrix:
    """(n, n) sparse: cosine ** SHARPNESS of each row's k nearest others, made symmetric by the larger weight."""
    n = len(units)
    k = min(k, n - 1)
    rows, columns, weights = [], [], []
    for start in range(0, n, BLOCK):
        similarity = np.round(units[start : start + BLOCK].astype(np.float64) @ units.T.astype(np.float64), DECIMALS)
        own = np.arange(start, min(start + BLOCK, n))
        similarity[np.arange(len(own)), own] = -2.0
        near = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        rows.append(np.repeat(own, k))
        columns.append(near.ravel())
        weights.append(np.maximum(np.take_along_axis(similarity, near, 1), 0.0).ravel() ** SHARPNESS)
    graph = csr_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(n, n))
    return graph.maximum(graph.T)


def shown(row: Floats, classes: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The most probable classes of one row, best first, ties by the order of the classes."""
    order = np.argsort(-row, kind="stable")[:SHOWN]
    return tuple((classes[int(i)], round(float(row[i]), DECIMALS)) for i in order if row[i] > 0)


VIEWS: Mapping[str, View] = {"logistic": logistic, "self_training": self_training, "label_propagation": label_propagation}

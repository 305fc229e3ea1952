"""Classifiers on embeddings: what they say on constructed places, and that no fold sees its own labels."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info

from tests.semisup.builders import example, examples, queries, query
from worker.semisup.data import Split
from worker.semisup.spec import POOLED_COLLABORATORS, Collaborator, JobSpec
from worker.semisup.stages import evaluate, views
from worker.semisup.stages.evaluate import evaluate_classifier
from worker.semisup.stages.views import label_propagation, logistic, nearest_graph, self_training, shown, views_of
from worker.semisup.task import make_task


def unit(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_logistic_is_scikit_learns_on_the_taught_rows_alone():
    units = unit([0, 5, 90, 95, 40, 60])
    mine = logistic(units, [0, 1, 2, 3], [2, 2, 0, 0], 3, 10)
    theirs = LogisticRegression(C=10.0, max_iter=500).fit(units[:4], [2, 2, 0, 0]).predict_proba(units)
    assert mine[:, [0, 2]] == pytest.approx(theirs)
    assert (mine[:, 1] == 0).all()  # a class nobody taught


def test_one_class_alone_is_certain_of_itself():
    assert logistic(unit([0, 90]), [0], [1], 2, 10).tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_self_training_moves_the_border_to_where_the_rows_leave_room():
    """Rows lie at 0 to 40 and at 75 to 90 degrees: taught at 0 and 90 alone, logistic regression cuts at 45."""
    units = unit([0, 90, 48, *range(5, 41, 5), *range(76, 90, 2)])
    alone, trained = (view(units, [0, 1], [0, 1], 2, 10) for view in (logistic, self_training))
    assert alone[2].argmax() == 1
    assert trained[2, 0] > alone[2, 0] + 0.1
    assert self_training(units[:2], [0, 1], [0, 1], 2, 10) == pytest.approx(logistic(units[:2], [0, 1], [0, 1], 2, 10))


def test_propagation_follows_the_chain_and_not_the_straight_line():
    """Two arcs of rows; an end of one lies nearer to the other's label than to its own, and still gets its own."""
    first, second = list(range(0, 100, 10)), list(range(115, 215, 10))
    units = unit([*first, *second])
    out = label_propagation(units, [0, len(units) - 1], [0, 1], 2, 2)
    assert out.argmax(axis=1).tolist() == [0] * 10 + [1] * 10
    assert out.sum(axis=1) == pytest.approx(np.ones(20))


def test_propagation_is_the_closed_form_of_zhou_et_al():
    units = unit([0, 20, 30, 70, 80, 120])
    graph = nearest_graph(units, 2).toarray()
    degree = graph.sum(axis=1)
    scaled = graph / np.sqrt(degree[:, None] * degree[None])
    start = np.zeros((6, 2))
    start[0, 0] = start[5, 1] = 1.0
    exact = 0.2 * np.linalg.solve(np.eye(6) - 0.8 * scaled, start) + 1e-6
    found = label_propagation(units, [0, 5], [0, 1], 2, 2)
    assert found == pytest.approx(exact / exact.sum(axis=1, keepdims=True), abs=1e-4)


def test_a_row_that_nothing_reaches_knows_nothing():
    units = np.eye(4, dtype=np.float32)
    assert label_propagation(units, [0], [0], 2, 1)[3] == pytest.approx([0.5, 0.5])


def test_the_graph_is_symmetric_and_has_no_loops():
    graph = nearest_graph(unit([0, 10, 50, 200]), 1).toarray()
    assert (graph == graph.T).all()
    assert (np.diag(graph) == 0).all()


def test_shown_keeps_the_most_probable_by_name():
    assert shown(np.array([0.1, 0.6, 0.3, 0.0]), ("a", "b", "c", "d")) == (("b", 0.6), ("c", 0.3), ("a", 0.1))


def test_a_folds_rows_are_answered_without_their_own_labels(lab):
    """The wrong label of one row shows in what is said of the pool's twin, and never in what is said of the row itself."""
    right = examples("l", 8)
    odd = example("l-odd", "a lorry full of frozen fish", "blue")
    both = [(*right, odd), (*right, example("l-odd", "a lorry full of frozen fish", "red"))]
    pool = queries("u", 4)
    said = [views_of(lab, rows, [(8,)], pool, ("red", "blue"), POOLED_COLLABORATORS) for rows in both]
    for name in ("embedded", "spread"):
        first, second = (views.tables[name] for views in said)
        assert first["l-odd"] == second["l-odd"]
        assert set(first) == {*(q.id for q in pool), "l-odd"}
    assert said[0].tables["embedded"][pool[0].id] != said[1].tables["embedded"][pool[0].id]


def test_without_classifiers_nothing_is_embedded(monkeypatch, lab):
    monkeypatch.setattr(lab, "embed", lambda texts: pytest.fail("embedded for nobody"))
    assert views_of(lab, examples("l", 4), (), queries("u", 2), ("red", "blue"), [Collaborator(name="a")]).tables == {}


def test_the_reports_classifier_learns_from_the_unlabeled_rows_and_never_from_those_it_is_judged_on(monkeypatch, lab):
    """Labels at 0 and 90 degrees, unlabeled rows that pull the border to 58; asked at 50, alone and beside a crowd."""
    places = {"item 0": 0, "item 1": 90} | {f"u{i}": angle for i, angle in enumerate([*range(5, 41, 5), *range(76, 90, 2)])}
    places |= {"asked": 50} | {f"crowd {i}": 52 + i for i in range(5)}
    monkeypatch.setattr(lab, "embed", lambda texts: unit([places[text] for text in texts]))
    spec = JobSpec.model_validate({"answer": {"kind": "label"}})
    labeled = (example("l0", "item 0", "low"), example("l1", "item 1", "high"))
    pool = tuple(query(f"q{i}", f"u{i}") for i in range(15))
    one = example("t", "asked", "low")

    def said(unlabeled, *more):
        task = make_task(lab, spec, Split(labeled, unlabeled, (), ()))
        return [p.answer for p in evaluate_classifier(task, [one, *more])]

    assert said(pool) == ["low"]
    crowd = [example(f"c{i}", f"crowd {i}", "high") for i in range(5)]
    assert said(pool, *crowd)[0] == "low"
    assert said(()) == ["high"]
    monkeypatch.setattr(evaluate, "MOST_ROWS", 0)
    assert said(pool) == ["high"]
    assert evaluate_classifier(make_task(lab, spec, Split(labeled[:1], (), (), ())), [one])[0].correct


def test_classifiers_are_fitted_on_one_blas_thread_and_others_get_theirs_back(lab, monkeypatch):
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    seen: list[int] = []

    def watched(*args):
        seen.extend(threads())
        return logistic(*args)

    monkeypatch.setattr(views, "VIEWS", {"logistic": watched})
    before = threads()
    views_of(lab, examples("l", 4), (), queries("u", 2), ("red", "blue"), [Collaborator(name="a", view="logistic")])
    assert seen
    assert set(seen) == {1}
    assert threads() == before

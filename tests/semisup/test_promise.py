"""The promise of risk_control through a whole round: its own calibration, votes, pool and selection."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from tests.semisup.builders import example, query
from worker.semisup import round as one_round
from worker.semisup.data import Split
from worker.semisup.keep import MemoryKeep
from worker.semisup.lm import Lab
from worker.semisup.round import run_round
from worker.semisup.spec import JobSpec
from worker.semisup.task import make_task

SPLITS = 200
NAMES = ("red", "blue", "green")
LABELED, POOL, DIMENSIONS, NOISE = 150, 300, 6, 0.5
PRECISION, CONFIDENCE = 0.85, 0.8
TOO_OFTEN = 0.25  # broken promises; 0.2 were said
ALLOWED = int(binom.ppf(0.05, SPLITS, TOO_OFTEN)) - 1  # so few happen to such a selector once in twenty times, or less
SPEC = {
    "answer": {"kind": "label", "labels": list(NAMES)},
    "propagation": {
        "in_weight": False,
        "k": 2,
        "collaborators": [{"name": "lr", "view": "logistic"}, {"name": "spread", "view": "label_propagation", "k": 5}],
    },
    "selection": {"strategy": "risk_control", "precision": PRECISION, "confidence": CONFIDENCE, "fallback": "none"},
}


def drawn(seed: int, lab: Lab) -> tuple[Split, dict[str, str]]:
    """(labeled rows and a pool of three overlapping clouds, golds of the pool); the lab embeds each row as its point."""
    generator = np.random.Generator(np.random.Philox(seed))
    kind = generator.integers(len(NAMES), size=LABELED + POOL)
    points = np.eye(DIMENSIONS)[kind] + NOISE * generator.normal(size=(len(kind), DIMENSIONS))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)

    def embed(texts: Sequence[str]) -> Any:
        return points[[int(text.split()[-1]) for text in texts]]

    lab.embed = embed  # type: ignore[method-assign]
    rows = [example(f"l-{i}", f"row {i}", NAMES[kind[i]]) for i in range(LABELED)]
    pool = [query(f"u-{i}", f"row {i}") for i in range(LABELED, LABELED + POOL)]
    return Split(tuple(rows), tuple(pool), ()), {q.id: NAMES[kind[LABELED + i]] for i, q in enumerate(pool)}


@pytest.mark.slow
@pytest.mark.parametrize("calibration", [{"mode": "held_out", "fraction": 0.7}, {"mode": "cross_fit", "folds": 3}], ids=str)
def test_a_round_breaks_its_promise_no_more_often_than_it_said(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, calibration: dict[str, Any]
) -> None:
    """200 draws of labels and pool, judged by the golds of the very rows selected, whose number adds chance of its own.

    With held-out labels the promise is exact; with cross-fitted ones it is approximate, and held to the same rate all the same.
    Of 200: 101 certified, 12 broken (held_out); 189 certified, 28 broken (cross_fit). At most 39 are allowed: 40 would be the
    rate that was said, and a selector that breaks a quarter of its promises has a chance of 4 % to come through.
    """
    assert ALLOWED == 39 <= SPLITS * (1 - CONFIDENCE)
    monkeypatch.setattr(one_round, "evolve", lambda *_: None)  # what is trained on the selection promises nothing
    ended: Counter[str] = Counter()
    for seed in range(SPLITS):
        split, gold = drawn(seed, lab)
        task = make_task(lab, JobSpec.model_validate({**SPEC, "seed": seed, "calibration": calibration}), split)
        selection = run_round(task, 1, None, MemoryKeep(1000)).selection
        assert selection.guarantee is not None
        if not selection.guarantee["certified"]:
            assert selection.selected == 0
            continue
        right = [sample.pseudo_label == gold[sample.query_id] for sample in selection.chosen()]
        ended["certified"] += 1
        ended["broken"] += sum(right) < PRECISION * len(right)
    assert ended["broken"] <= ALLOWED
    assert ended["certified"] >= SPLITS / 4, "a promise that is never made is never broken"

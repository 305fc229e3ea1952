"""Each selector on numbers a reader can check, and the tables against the spec."""

from typing import get_args

import numpy as np
import pytest

from tests.semisup.builders import candidate, query
from worker.semisup.data import Neighbours
from worker.semisup.objectives import OBJECTIVES
from worker.semisup.selectors import SELECTORS
from worker.semisup.selectors.cut import Scores
from worker.semisup.spec import (
    Agreement,
    ClassPercentile,
    Evolve,
    KeepAll,
    Percentile,
    RandomShare,
    Resolve,
    SelectionSpec,
    Threshold,
)
from worker.semisup.stages.agree import VOTE_RESOLVERS
from worker.semisup.stages.select import select


def scores(nll, label=None, disputed=None, agreement=None):
    n = len(nll)
    return Scores(
        np.array(nll, float),
        np.array(agreement or [1.0] * n),
        np.array(label or ["x"] * n),
        np.array(disputed or [False] * n),
    )


def kept(spec, given, seed=0):
    return SELECTORS[spec.strategy](given, spec, seed).kept.tolist()


def test_the_tables_hold_exactly_what_the_spec_offers():
    union = get_args(get_args(SelectionSpec)[0])
    assert set(SELECTORS) == {kind.model_fields["strategy"].default for kind in union}
    assert set(OBJECTIVES) == set(get_args(Evolve.model_fields["objective"].annotation))
    assert set(VOTE_RESOLVERS) | {"justify"} == set(get_args(Resolve.model_fields["resolver"].annotation))


def test_percentile_keeps_strictly_below_the_cut():
    given = scores([4.0, 1.0, 3.0, 2.0, 5.0])
    assert kept(Percentile(theta=50.0), given) == [False, True, False, True, False]
    assert kept(Percentile(theta=50.0, strict=False), given) == [False, True, True, True, False]
    assert SELECTORS["percentile"](given, Percentile(theta=50.0), 0).threshold == 3.0


def test_percentile_at_its_ends():
    given = scores([1.0, 2.0, 3.0])
    assert kept(Percentile(theta=0.0), given) == [False, False, False]
    assert kept(Percentile(theta=100.0), given) == [True, True, False]


def test_equal_values_are_all_kept_because_a_strict_cut_would_keep_none():
    assert kept(Percentile(theta=50.0), scores([0.7, 0.7, 0.7])) == [True, True, True]


def test_disputed_scope_keeps_the_agreed_uncut():
    given = scores([9.0, 1.0, 2.0, 3.0], disputed=[False, True, True, True])
    assert kept(Percentile(theta=40.0, scope="disputed"), given) == [True, True, False, False]


def test_class_percentile_does_not_starve_the_minority():
    given = scores([0.1, 0.2, 0.3, 0.4, 5.0, 6.0], label=["x", "x", "x", "x", "y", "y"])
    assert kept(Percentile(theta=50.0), given) == [True, True, True, False, False, False]
    assert kept(ClassPercentile(theta=50.0), given) == [True, True, False, False, True, False]


def test_threshold_agreement_and_all():
    given = scores([0.1, 0.5], agreement=[0.5, 1.0])
    assert kept(Threshold(max_mean_nll=0.1), given) == [True, False]
    assert kept(Agreement(min_agreement=0.75), given) == [False, True]
    assert kept(KeepAll(), given) == [True, True]


def test_the_random_control_draws_the_share_it_was_told_and_repeats_itself():
    given = scores(list(range(10)))
    first = kept(RandomShare(share=0.3), given, seed=5)
    assert sum(first) == 3
    assert first == kept(RandomShare(share=0.3), given, seed=5)
    assert first != kept(RandomShare(share=0.3), given, seed=6)


@pytest.mark.parametrize("strategy", sorted(SELECTORS))
def test_every_selector_takes_an_empty_pool(strategy):
    given = Scores(np.array([]), np.array([]), np.array([], str), np.array([], bool))
    spec = Threshold(max_mean_nll=1.0) if strategy == "threshold" else {
        "percentile": Percentile(), "class_percentile": ClassPercentile(), "agreement": Agreement(),
        "all": KeepAll(), "random": RandomShare(),
    }[strategy]  # fmt: skip
    assert kept(spec, given) == []


def test_every_candidate_gets_a_verdict_and_a_reason_in_upload_order():
    pool = [query(f"u-{i}", f"q{i}") for i in range(3)]
    none = Neighbours({}, {})
    shuffled = [candidate("u-2", None, 0.1), candidate("u-0", "A", 0.2), candidate("u-1", "A", 0.9)]
    selection = select(shuffled, pool, none, Percentile(theta=50.0), round_number=1, seed=0)
    assert [(s.query_id, s.verdict, s.reason) for s in selection.samples] == [
        ("u-0", "selected", "selected"),
        ("u-1", "rejected", "above_percentile"),
        ("u-2", "rejected", "no_answer"),
    ]
    assert (selection.selected, selection.rejected) == (1, 2)

"""Each selector on numbers a reader can check, and the tables against the spec."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given as examples_of
from hypothesis import settings
from hypothesis import strategies as st

from tests.semisup.builders import candidate, query
from worker.semisup.data import Neighbours
from worker.semisup.objectives import OBJECTIVES
from worker.semisup.selectors import SELECTORS
from worker.semisup.selectors.cut import Judgements, Scores
from worker.semisup.spec import (
    Agreement,
    ClassPercentile,
    Evolve,
    JobSpec,
    KeepAll,
    Percentile,
    RandomShare,
    Resolve,
    RiskControl,
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


SPECS = {
    "percentile": Percentile(),
    "class_percentile": ClassPercentile(),
    "threshold": Threshold(max_mean_nll=1.0),
    "agreement": Agreement(),
    "all": KeepAll(),
    "random": RandomShare(),
    "risk_control": RiskControl(precision=0.7, confidence=0.8),
}


def kept(spec, given, seed=0):
    return SELECTORS[spec.strategy](given, spec, seed).kept.tolist()


def test_the_tables_hold_exactly_what_the_spec_offers():
    union = get_args(get_args(SelectionSpec)[0])
    assert set(SELECTORS) | {"auto"} == {kind.model_fields["strategy"].default for kind in union}
    assert set(OBJECTIVES) | {"auto"} == set(get_args(Evolve.model_fields["objective"].annotation))
    resolvers = set(get_args(Resolve.model_fields["resolver"].annotation))
    assert set(VOTE_RESOLVERS) | {"auto", "justify", "pool"} == resolvers


def test_caps_alone_leave_the_strategy_as_it_was():
    def read(**selection):
        return JobSpec.model_validate({"selection": selection}).selection

    assert read(caps={"max_class_share": 0.5}).strategy == read().strategy == "auto"
    assert read(theta=30.0, caps={"max_class_share": 0.5}).strategy == "percentile"
    paper = JobSpec.model_validate({"profile": "paper", "selection": {"caps": {"max_near_duplicates": 1}}}).selection
    assert (paper.strategy, paper.caps.max_near_duplicates) == ("percentile", 1)


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
    assert kept(SPECS[strategy], given) == []


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


# --- what holds for any pool ------------------------------------------------------------------------------------------

nlls = st.integers(0, 40).map(lambda tenth: tenth / 10)  # few values, so that ties are common
rows = st.tuples(nlls, st.sampled_from("xyz"), st.booleans(), st.integers(1, 4).map(lambda votes: votes / 4))
pools = st.lists(rows, max_size=60)
evidence = st.none() | st.lists(st.tuples(nlls, st.integers(0, 9).map(lambda n: n > 0)), max_size=60)
always = settings(max_examples=100, deadline=None, derandomize=True)


def drawn(pool, judged=None) -> Scores:
    nll, label, disputed, agreement = map(list, zip(*pool, strict=True)) if pool else ([], [], [], [])
    known = (
        None if judged is None else Judgements(np.array([n for n, _ in judged], float), np.array([r for _, r in judged], bool))
    )
    return Scores(np.array(nll, float), np.array(agreement, float), np.array(label, str), np.array(disputed, bool), known)


@pytest.mark.parametrize("strategy", sorted(SELECTORS))
@always
@examples_of(pools, evidence)
def test_a_cut_is_one_verdict_per_row_and_no_number_that_json_cannot_hold(strategy, pool, judged):
    cut = SELECTORS[strategy](drawn(pool, judged), SPECS[strategy], 0)
    assert cut.kept.shape == (len(pool),)
    assert cut.kept.dtype == bool
    assert cut.reason
    told = [cut.threshold, *(cut.guarantee or {}).values()]
    assert all(np.isfinite(number) for number in told if number is not None)


@pytest.mark.parametrize("strategy", sorted(set(SELECTORS) - {"random"}))  # which draws by position, on purpose
@always
@examples_of(pools, evidence, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter_up_to_ties(strategy, pool, judged, random):
    order = list(range(len(pool)))
    random.shuffle(order)
    before = kept(SPECS[strategy], drawn(pool, judged))
    after = kept(SPECS[strategy], drawn([pool[i] for i in order], judged))

    def what(flags, rows):  # of tied rows only how many are kept is fixed
        return sorted((row[0], row[1]) for flag, row in zip(flags, rows, strict=True) if flag)

    assert what(before, pool) == what(after, [pool[i] for i in order])


@pytest.mark.parametrize(
    "at",
    [
        lambda theta: Percentile(theta=theta),
        lambda theta: Percentile(theta=theta, scope="disputed", strict=False),
        lambda theta: ClassPercentile(theta=theta),
        lambda theta: Threshold(max_mean_nll=theta / 25),
        lambda theta: Agreement(min_agreement=max(0.01, 1 - theta / 100)),
        lambda theta: RandomShare(share=theta / 100),
        lambda theta: RiskControl(theta=theta),
    ],
    ids=["percentile", "disputed", "class_percentile", "threshold", "agreement", "random", "fallback"],
)
@always
@examples_of(pools, st.floats(0, 100), st.floats(0, 100))
def test_a_looser_cut_keeps_all_that_a_tighter_one_keeps(at, pool, one, other):
    tight, loose = sorted((one, other))
    assert set(np.flatnonzero(kept(at(tight), drawn(pool)))) <= set(np.flatnonzero(kept(at(loose), drawn(pool))))


@always
@examples_of(pools, st.floats(0, 100))
def test_how_many_are_kept_stays_within_what_was_asked(pool, theta):
    n, distinct = len(pool), len({row[0] for row in pool})
    assert sum(kept(RandomShare(share=theta / 100), drawn(pool))) == round(theta / 100 * n)
    if distinct == n:
        assert abs(sum(kept(Percentile(theta=theta), drawn(pool))) - theta / 100 * n) <= 1
    by_class = sum(kept(ClassPercentile(theta=theta), drawn(pool)))
    assert theta / 100 * n - 1e-6 <= by_class < theta / 100 * n + 3
    most = [row[0] for row, keep in zip(pool, kept(Threshold(max_mean_nll=2.0), drawn(pool)), strict=True) if keep]
    assert max(most, default=0) <= 2.0


@always
@examples_of(pools, evidence)
def test_what_a_certificate_keeps_is_everything_up_to_its_threshold(pool, judged):
    cut = SELECTORS["risk_control"](drawn(pool, judged), SPECS["risk_control"], 0)
    if cut.guarantee["certified"]:
        assert cut.kept.tolist() == [row[0] <= cut.threshold for row in pool]
        assert cut.guarantee["lower_bound"] >= 0.7 - 1e-9
        assert cut.note is None
    elif pool:
        assert "nothing is promised" in cut.note

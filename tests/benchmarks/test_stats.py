"""The benchmark's arithmetic against numbers that can be worked out by hand."""

import math

import pytest

from benchmarks.quality import stats


def grid(**tasks):
    """{(task, seed): value} from task=[values by seed]."""
    return {(task, seed): value for task, values in tasks.items() for seed, value in enumerate(values)}


def test_a_t_interval_is_the_textbook_one():
    found = stats.t_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)  # t(0.975, 2) * sd 1 / sqrt 3


def test_one_value_has_no_interval():
    assert stats.t_interval([5.0]) == stats.Interval(5.0, None, None, 1)


def test_pairs_are_the_pieces_both_sides_have():
    left, right = grid(a=[90.0, 92.0], b=[80.0]), grid(a=[88.0], b=[81.0, 70.0])
    found = stats.paired(left, right, {}, {})
    assert found is not None
    assert found.over_pieces.n == 2
    assert found.over_pieces.mean == pytest.approx((2.0 - 1.0) / 2)
    assert (found.won, found.lost) == (1, 1)


def test_nothing_in_common_is_no_comparison():
    assert stats.paired(grid(a=[1.0]), grid(b=[1.0]), {}, {}) is None


def test_the_interval_over_tasks_sees_each_task_once_however_many_seeds_it_has():
    left, right = grid(a=[4.0, 4.0, 4.0, 4.0], b=[0.0]), grid(a=[0.0] * 4, b=[0.0])
    found = stats.paired(left, right, {}, {})
    assert found is not None
    assert found.over_pieces.mean == pytest.approx(3.2)
    assert found.over_tasks.mean == 2.0
    assert found.over_tasks.half == pytest.approx(12.7062 * math.sqrt(8) / math.sqrt(2), rel=1e-5)  # t(0.975, 1), sd sqrt 8


def test_five_wins_of_five_are_as_unlikely_as_two_of_thirty_two():
    left, right = grid(a=[1.0, 2.0, 3.0, 4.0, 5.0]), grid(a=[0.0] * 5)
    found = stats.paired(left, right, {}, {})
    assert found is not None
    assert found.p_wilcoxon == pytest.approx(2 / 32)


def test_equal_differences_have_no_t_test_and_no_difference_has_no_test_at_all():
    same = stats.paired(grid(a=[1.0, 1.0]), grid(a=[0.0, 0.0]), {}, {})
    none = stats.paired(grid(a=[1.0, 1.0]), grid(a=[1.0, 1.0]), {("a", 0): "01"}, {("a", 0): "01"})
    assert same is not None
    assert same.p_t is None
    assert none is not None
    assert (none.p_wilcoxon, none.p_mcnemar) == (None, None)


def test_the_last_bits_of_a_quotient_tell_no_ties_apart():
    """100 * 0.57 - 100 * 0.55 is not 100 * 0.87 - 100 * 0.85 to the last bit: ranks would be told apart, and a t test made."""
    left, right = grid(a=[100 * 0.57, 100 * 0.87, 100 * 0.29]), grid(a=[100 * 0.55, 100 * 0.85, 100 * 0.27])
    assert len({left[key] - right[key] for key in left}) > 1
    assert set(stats.difference(left, right).values()) == {2.0}
    found = stats.paired(left, right, {}, {})
    assert found is not None
    assert found.p_t is None


def test_mcnemar_counts_rows_that_one_side_alone_got_right():
    left = {("a", 0): "1110", ("b", 0): "11"}
    right = {("a", 0): "0000", ("b", 0): "11", ("c", 0): "00"}
    assert stats.mcnemar(left, right) == pytest.approx(2 * 0.5**3)


def test_error_reduction_is_of_mean_errors_within_a_task():
    ours, control = grid(a=[90.0, 80.0], b=[95.0]), grid(a=[80.0, 60.0], b=[90.0])
    assert stats.reductions(ours, control) == pytest.approx({"a": 1 - 30 / 60, "b": 0.5})


def test_a_control_without_errors_leaves_nothing_to_reduce():
    assert stats.reductions(grid(a=[99.0]), grid(a=[100.0])) == {}
    assert stats.bootstrap_reduction(grid(a=[99.0]), grid(a=[100.0])) is None


def test_tasks_of_one_data_set_count_as_one():
    found = stats.by_group({"a": 0.2, "b": 0.4, "c": 0.9}, {"a": "x", "b": "x", "c": "y"})
    assert found == pytest.approx({"x": 0.3, "y": 0.9})


def test_the_bootstrap_of_a_constant_reduction_has_no_width():
    ours, control = grid(a=[90.0, 80.0], b=[95.0, 95.0]), grid(a=[80.0, 60.0], b=[90.0, 90.0])
    found = stats.bootstrap_reduction(ours, control, resamples=200)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_bootstrap_is_seeded_and_covers_its_point():
    ours, control = grid(a=[90.0, 70.0], b=[95.0, 99.0]), grid(a=[80.0, 72.0], b=[90.0, 91.0])
    found, again = (stats.bootstrap_reduction(ours, control, resamples=500) for _ in range(2))
    assert found == again
    assert found is not None
    assert found.low < found.mean < found.high


def test_the_bootstrap_draws_tasks_and_seeds_within_them():
    """Tasks: the mean of four draws of 0 or 1 is 0 in one of 16, so the 2.5 % quantile is 0 and the 97.5 % quantile 1.

    Seeds: errors 10 of 20 and 30 of 40. Twice the first is 1/2 less, twice the second 1/4 less, each in one of 4.
    """
    zero, one = ([80.0], [80.0]), ([100.0], [80.0])
    ours, control = (grid(a=zero[i], b=zero[i], c=one[i], d=one[i]) for i in (0, 1))
    tasks = stats.bootstrap_reduction(ours, control, resamples=2000)
    seeds = stats.bootstrap_reduction(grid(a=[90.0, 70.0]), grid(a=[80.0, 60.0]), resamples=2000)
    assert tasks is not None
    assert seeds is not None
    assert (tasks.mean, tasks.low, tasks.high) == (0.5, 0.0, 1.0)
    assert (seeds.mean, seeds.low, seeds.high) == pytest.approx((1 / 3, 0.25, 0.5))


def test_half_of_the_way_to_the_ceiling():
    closed = stats.gap_closed(grid(a=[85.0], b=[1.0]), grid(a=[80.0], b=[9.0]), grid(a=[90.0], b=[9.0]))
    assert closed == {"a": 0.5}  # b has no gap


def test_the_share_closed_in_all_is_of_the_mean_gap_and_leaves_no_task_out():
    ours, control, ceiling = (
        grid(a=[85.0], b=[85.0], c=[70.0]),
        grid(a=[80.0], b=[84.0], c=[72.0]),
        grid(a=[90.0], b=[84.1], c=[71.9]),
    )
    shares = stats.gap_closed(ours, control, ceiling)
    assert shares == pytest.approx({"a": 0.5, "b": 10.0})
    assert stats.gap_closed_together(ours, control, ceiling) == (pytest.approx((5 + 1 - 2) / (10 + 0.1 - 0.1)), 3)
    assert stats.gap_closed_together(ours, control, control) is None
    assert stats.gap_closed_together(ours, control, {}) is None


def test_the_guard_takes_the_better_one_on_validation_rows_and_evolved_on_ties():
    evolved, control = grid(a=[70.0, 70.0, 70.0, 70.0]), grid(a=[80.0, 80.0, 80.0, 80.0])
    ours, theirs = grid(a=[50.0, 60.0, 50.0]), grid(a=[60.0, 50.0, 50.0])
    found, returned = stats.after_guard(evolved, control, ours, theirs)
    assert found == grid(a=[80.0, 70.0, 70.0, 70.0])  # seed 3 has no validation rows
    assert returned == 1

"""The table and its targets, from made-up records whose means can be checked in the head."""

import pytest

from benchmarks.quality import stats
from benchmarks.quality.grids import Grids
from benchmarks.quality.table import table
from benchmarks.quality.targets import targets
from tests.benchmarks.pieces import record

TASKS, SEEDS = [f"t{i}" for i in range(6)], range(5)


def right(count, of=20):
    return "1" * count + "0" * (of - count)


def everything(**rights):
    """Records of every (task, seed), each arm right on so many of 20 rows (validation rows alike)."""
    return [record(t, s, arm, right(n), right(n)) for t in TASKS for s in SEEDS for arm, n in rights.items()]


def status(records):
    return [target.status for target in targets(Grids(records))]


def test_a_clear_win_passes_what_was_measured():
    records = everything(knn=10, lr_self_training=11, early=12, default=16, no_x=14, gold=18)
    records += [
        record(t, s, "rounds", right(17), right(17), rounds=[two_rounds(16), two_rounds(17)]) for t in TASKS for s in SEEDS
    ]
    assert status(records) == ["pass"] * 6
    first = targets(Grids(records))[0]
    assert first.measured == "+50.0% [+50.0%, +50.0%] over 6 tasks; reach met"


def two_rounds(count):
    return {"accuracy": count / 20, "validation_accuracy": count / 20}


def test_a_loss_fails_and_the_guard_takes_it_back():
    records = everything(knn=15, lr_self_training=15, early=14, default=10, no_x=12, gold=18)
    assert status(records) == ["fail", "pass", "fail", "fail", "fail", "not measured"]
    guarded, returned = Grids(records).guarded()
    assert (stats.mean_over_tasks(guarded), returned) == (70.0, 30)


def test_a_second_round_that_loses_is_not_taken_by_a_job():
    records = everything(early=10, default=12)
    records += [record(t, s, "rounds", right(11), "", rounds=[two_rounds(12), two_rounds(11)]) for t in TASKS for s in SEEDS]
    found = targets(Grids(records))[5]
    assert (found.status, found.measured) == (
        "pass",
        "second minus first -5.0 [-5.0, -5.0] points; as the job would choose +0.0 [+0.0, +0.0]",
    )


def test_of_rounds_that_validation_rows_cannot_tell_apart_a_job_takes_the_first():
    records = everything(early=10, default=12)
    rounds = [{"accuracy": n / 20, "validation_accuracy": 0.5} for n in (12, 14)]
    records += [record(t, s, "rounds", right(14), "", rounds=rounds) for t in TASKS for s in SEEDS]
    found = targets(Grids(records))[5]
    assert found.measured == "second minus first +10.0 [+10.0, +10.0] points; as the job would choose +0.0 [+0.0, +0.0]"


def test_a_second_round_that_was_run_twice_counts_with_both_runs():
    """Once for two rounds, where it lost four of twenty, and once for three, where it won two."""
    records = everything(early=10, default=12)
    for task, seed in [(t, s) for t in TASKS for s in SEEDS]:
        lost = [two_rounds(12), {**two_rounds(8), "validation_accuracy": 0.9}]
        won = [two_rounds(12), two_rounds(14), two_rounds(14)]
        records += [record(task, seed, arm, right(14), rounds=runs) for arm, runs in {"rounds": lost, "more": won}.items()]
    found = targets(Grids(records))[5]
    assert found.measured == "second minus first -5.0 [-5.0, -5.0] points; as the job would choose -5.0 [-5.0, -5.0]"
    assert found.status == "fail"


def test_an_ablation_that_was_not_measured_throughout_leaves_the_question_open():
    """Also one of which nothing but failures is there, beside another that lost."""
    records = everything(early=12, default=16, no_x=14)
    failures = [record(t, s, "no_y", "1") | {"error": {"type": "E", "message": "m"}} for t in TASKS for s in SEEDS]
    assert targets(Grids(records))[4].measured == "of 1 ablations the closest: no_x -10.0"
    found = targets(Grids([*records, *failures]))[4]
    assert (found.status, found.measured) == (
        "not measured",
        "of 1 ablations the closest: no_x -10.0; no_y: 0 of 6 tasks with 5 seeds",
    )


def test_the_interval_by_data_set_sees_its_tasks_as_one_and_is_not_judged_by():
    """Half of the error is taken away in the four tasks of one data set, a fifth in the two of the other."""
    records = [
        record(t, s, arm, right(n), dataset="small" if t in ("t4", "t5") else "large")
        for t in TASKS
        for s in SEEDS
        for arm, n in (("early", 10), ("default", 12 if t in ("t4", "t5") else 15))
    ]
    first, text = targets(Grids(records))[0], table(records)
    by_set = "(by data set +35.0% [-155.6%, +225.6%] over 2, not judged by)"  # t(0.975, 1) 12.706 times half of 30
    assert first.measured == f"+40.0% [+23.7%, +56.3%] over 6 tasks {by_set}; reach met"
    assert "first: large +50.0 %, small +20.0 %; mean +35.0 % [-155.6, +225.6] (t interval over 2 data sets" in text
    assert "These 6 are drawn from 2 data sets (large, small)" in text
    assert "data set" not in table(everything(early=10, default=15))  # each task its own: one interval says it all


def test_the_stronger_self_training_is_the_one_to_be_above():
    records = everything(lr_self_training=14, lr_self_training_weighted=17, early=12, default=16)
    found = targets(Grids(records))[3]
    words = '-5.0 [-5.0, -5.0] points over 6 tasks, against "the lr_self_training_weighted", the stronger of 2'
    assert (found.status, found.measured) == ("fail", words)
    found = targets(Grids(everything(lr_self_training=15, lr_self_training_weighted=14, early=12, default=16)))[3]
    assert (found.status, found.measured) == ("pass", words.replace("-5.0", "+5.0").replace("_weighted", ""))


def test_stronger_is_who_is_so_on_the_mean_over_tasks_not_over_pieces():
    records = everything(lr_self_training=14, lr_self_training_weighted=13, early=12, default=16)
    kept = [r for r in records if r["task"] == "t0" or r["seed"] == 0]  # t0 has five pieces, the others one
    kept = [r for r in kept if (r["task"], r["arm"]) != ("t0", "lr_self_training_weighted")]
    kept += [record("t0", s, "lr_self_training_weighted", right(18)) for s in SEEDS]
    assert 'against "the lr_self_training", the stronger of 2' in targets(Grids(kept))[3].measured


@pytest.mark.parametrize("failed", [False, True])
def test_a_self_training_that_was_not_run_throughout_leaves_the_question_open(failed):
    records = everything(lr_self_training=14, lr_self_training_weighted=12, early=12, default=16)
    error = {"error": {"type": "E", "message": "m"}}
    half = [r for r in records if r["arm"] != "lr_self_training_weighted" or r["seed"] < 3]
    broken = [r | error if r["arm"] == "lr_self_training_weighted" else r for r in records]
    found = targets(Grids(broken if failed else half))[3]
    assert found.status == "not measured"
    assert found.measured.endswith("no shared piece" if failed else "; 0 of 6 tasks with 5 seeds")


def test_a_task_whose_control_errs_nowhere_is_none_of_the_six():
    records = [r for r in everything(early=12, default=16) if r["task"] != "t0"]
    records += [record("t0", s, arm, right(20)) for s in SEEDS for arm in ("early", "default")]
    first = targets(Grids(records))[0]
    assert (first.status, first.measured.rpartition("; ")[2]) == ("not measured", "5 of 6 tasks in which the control errs")


def test_being_above_is_a_mean_over_tasks_with_its_interval():
    records = everything(knn=10, default=13)
    records = [r for r in records if (r["task"], r["arm"]) != ("t0", "knn")] + [
        record("t0", s, "knn", right(16)) for s in SEEDS
    ]
    found = targets(Grids(records))[2]
    assert (found.status, found.measured) == ("pass", "+10.0 [-2.9, +22.9] points over 6 tasks")  # 5 tasks +15, one -15


@pytest.mark.parametrize("dropped", ["task", "seed"])
def test_five_tasks_or_four_seeds_are_no_measurement(dropped):
    records = everything(knn=10, lr_self_training=11, early=12, default=16, no_x=14)
    kept = [r for r in records if (r["task"] != "t5" if dropped == "task" else r["seed"] != 4)]
    assert set(status(kept)) == {"not measured"}
    assert "of 6 tasks with 5 seeds" in targets(Grids(kept))[0].measured


def test_an_ablation_within_its_interval_beats_nothing():
    records = everything(early=10, default=12)
    records += [record(t, s, "no_x", right(12 + (s % 2) * 2 - (s + 1) % 2)) for t in TASKS for s in SEEDS]
    found = targets(Grids(records))[4]
    assert found.status == "pass"


def test_missing_and_failed_pieces_are_shown_as_such_and_never_filled_in():
    records = everything(early=12, default=16)
    records = [r for r in records if (r["task"], r["arm"]) != ("t0", "early")]
    records.append(record("t0", 0, "early", "1") | {"error": {"type": "ValueError", "message": "no such luck"}})
    text = table(records)
    assert "- failed: t0, seed 0, the early: ValueError: no such luck" in text
    assert "- missing: 4 of 30 pieces of the early" in text
    control = next(line for line in text.splitlines() if line.startswith("| the early |"))
    assert control == "| the early | – | 60.0 ± 0.0 | 60.0 ± 0.0 | 60.0 ± 0.0 | 60.0 ± 0.0 | 60.0 ± 0.0 | – |"


def test_the_page_says_when_where_and_how_it_was_measured():
    text = table(everything(early=12, default=16))
    assert "2026-11-20; 6 tasks, seeds 0, 1, 2, 3, 4; 60 pieces." in text
    assert "Base LM: bundled:6. Machine: a CPU, 2 cores, cpu, bf16, 2 threads. Commit: abc1234." in text
    assert "Command: `bench`." in text
    assert "careful" not in text


def test_pieces_of_several_versions_are_pointed_out():
    records = everything(early=12, default=16)
    words = "careful: the pieces come from several versions of the algorithm"
    assert f"{words}, those of t5 even within the task;" in table([*records[:-1], records[-1] | {"code": "d"}])
    assert f"{words};" in table([r | {"code": "d"} if r["task"] == "t5" else r for r in records])


def test_several_commands_and_devices_are_listed():
    records = everything(early=12, default=16)
    other = records[-1] | {"command": "bench --device cuda", "environment": records[-1]["environment"] | {"device": "a GPU"}}
    text = table([*records[:-1], other])
    assert "Command: " not in text
    assert "## Commands\n\n- 59 pieces: `bench`\n- 1 pieces: `bench --device cuda`\n" in text
    assert "- the arms of t5 ran on several devices, whose last bits differ: a GPU, cpu\n" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "other rows"}, "careful: the arms of t5, seed 4 were given different rows"),
        ({"spec": {"seed": 4, "rounds": 2}}, "careful: the pieces of default on t5 come from several specs"),
        ({"dev": True}, "careful: some pieces were tested on left-over training rows (--dev), others on test rows"),
        ({"lm": "bundled:3"}, "careful: the pieces come from several base LMs"),
        (
            {"roles": {"control": "knn", "ours": "default", "ceiling": "gold"}},
            "careful: the pieces come from several choices of",
        ),
    ],
)
def test_pieces_that_cannot_be_compared_are_pointed_out(change, words):
    records = everything(early=12, default=16)
    assert words in table([*records[:-1], records[-1] | change])


def test_a_smaller_pool_is_the_point_of_a_ratio_and_nothing_to_be_careful_about():
    records = everything(early=12, default=16) + [record(t, 0, "half", right(14), data="a part") for t in TASKS]
    assert "careful" not in table(records)


def test_rows_left_over_from_training_are_no_test_rows():
    text = table([r | {"dev": True} for r in everything(early=12, default=16)])
    assert "tested on rows left over from the training files (--dev)" in text
    assert "test rows are the same for every seed" not in text


def test_every_task_is_shown_with_its_rows_those_the_guard_decides_by_included():
    records = everything(early=12, default=16)
    records += [record("t0", 0, "half", right(12), counts=dict.fromkeys(("labeled", "unlabeled", "validation", "test"), 1))]
    text = table(records)
    assert "| t0 | t0 | 60 | 600 | 100 | 20 | 12 |" in text
    assert "No arm trains on validation rows" in text
    fewer = table([*records, record("t0", 5, "default", right(16), counts=records[0]["counts"] | {"test": 19})])
    assert "| t0 | t0 | 60 | 600 | 100 | 19 to 20 | 12 |" in fewer


def test_a_mean_over_fewer_seeds_says_so():
    records = everything(early=12, default=16)
    kept = [r for r in records if (r["task"], r["arm"]) != ("t0", "early") or r["seed"] < 3]
    assert "| the early | 60.0 ± 0.0 (3 seeds) | 60.0 ± 0.0 |" in table(kept)
    assert "| the early | 60.0 (1 seed) |" in table([r for r in records if r["task"] == "t0" and r["seed"] == 0])


def test_an_ablation_that_is_right_on_the_very_rows_of_ours_is_said_to_be_ours():
    """As many rows are not the same rows, and what is no job is not ours whatever it gets right."""
    records = [r | {"kind": "early"} if r["arm"] == "gold" else r for r in everything(default=16, no_y=15, gold=16)]
    records = [r | {"training": {"epochs": 3, "horizon": 9}} for r in records]
    records += [record(t, s, "no_x", right(16) if s < 3 else right(16)[::-1]) for t in TASKS for s in SEEDS]
    lines = [line for line in table(records).splitlines() if "is the default in" in line]
    assert lines == ["- the no_x is the default in 18 of 30 pieces, right and wrong on the same test rows"]


def test_how_often_an_arm_that_may_stop_early_did_is_counted_from_its_pieces():
    records = everything(early=12, default=16, gold=18)
    kinds = {"early": "early", "gold": "gold"}
    records = [
        r | {"kind": kinds[r["arm"]], "training": {"epochs": 8 if r["arm"] == "early" and r["seed"] < 2 else 9, "horizon": 9}}
        if r["arm"] in kinds
        else r
        for r in records
    ]
    text = table(records)
    assert "- the early: stopped before its horizon: 12 of 30 pieces" in text
    assert "- the gold: stopped before its horizon: 0 of 30 pieces" in text
    assert text.count("before its horizon") == 2


def test_an_arm_that_came_later_stands_where_the_arms_file_has_it():
    """Pieces of before it came hold the places of before: the arm that it moved down has its number."""
    records = everything(knn=10, lr_self_training=11, early=12, default=16)
    place = next(r["place"] for r in records if r["arm"] == "early")
    new = [record(t, 0, "lr_self_training_weighted", right(13), place=place, date="2026-11-29") for t in TASKS]
    assert list(Grids([*records, *new]).arms) == ["knn", "lr_self_training", "lr_self_training_weighted", "early", "default"]


def test_both_curves_stand_beside_the_control():
    records = everything(early=10, half=13, default=16)
    records += [record("t0", s, "rounds", right(11), rounds=[two_rounds(12), two_rounds(11)]) for s in SEEDS]
    text = table([r for r in records if (r["task"], r["arm"]) != ("t1", "half")])
    ratio, rounds = (text.split(f"## Accuracy against {what}")[1].split("## ")[0] for what in ("unlabeled", "rounds"))
    assert "| task | control | 50 % | all |" in ratio
    assert "| t3 | 50.0 ± 0.0 | 65.0 ± 0.0 | 80.0 ± 0.0 |" in ratio
    assert "| task | control | round 1 | round 2 |" in rounds
    assert "| t0 | 50.0 ± 0.0 | 60.0 ± 0.0 | 55.0 ± 0.0 |" in rounds
    assert "t1" not in ratio + rounds  # a task without a point of a curve has no place in it


def test_of_curves_of_several_lengths_the_longest_counts_whatever_the_order():
    short = [record("t0", s, "rounds", right(14), rounds=[two_rounds(10), two_rounds(14)]) for s in SEEDS]
    long = [record("t0", s, "more", right(13), rounds=[two_rounds(n) for n in (11, 12, 13)]) for s in SEEDS[1:]]
    for records in (short + long, long + short):
        grids = Grids(everything(early=10) + records)
        assert grids.round(2) == {("t0", s): 70.0 if s == SEEDS[0] else 60.0 for s in SEEDS}
        assert grids.round(3) == {("t0", s): 65.0 for s in SEEDS[1:]}


def test_the_share_of_the_gap_and_the_paired_tests_are_there():
    text = table(everything(early=12, default=15, gold=18))
    assert "| t0 | +15.0 | +15.0 | +37.5 % | 50 % |" in text
    assert "Share of the gap to the ceiling that is closed, mean gain by mean gap of 6 tasks: 50 %." in text
    assert "| the early | +15.0 [+15.0, +15.0] | +15.0 [+15.0, +15.0] | 30 / 0 of 30 | – | < 0.001 | < 0.001 |" in text


def test_no_results_make_a_page_that_says_so():
    assert "There are no results yet" in table([])

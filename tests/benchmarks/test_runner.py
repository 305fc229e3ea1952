"""Pieces are run once, resumed, claimed and retried; what is stale is said, never silently used or redone."""

import json
import os

import pytest

from benchmarks.quality import runner
from benchmarks.quality.arms import Arms
from benchmarks.quality.locks import held, owner
from benchmarks.quality.results import path_of, read, read_all, state, write
from benchmarks.quality.run_piece import scored
from tests.benchmarks.pieces import ARMS, NoLab, plan


@pytest.fixture
def ran(monkeypatch):
    """(task, seed, arm) of every piece that was really run."""
    pieces = []

    def fake(piece):
        pieces.append((piece.bench.task.name, piece.bench.seed, piece.arm.name))
        return scored("1101", "10")

    monkeypatch.setattr(runner, "run_piece", fake)
    return pieces


ALL = [("tiny", seed, arm) for seed in (0, 1) for arm in ("early", "default", "gold")]


def test_pieces_run_once_seeds_outermost_and_by_priority(tmp_path, ran):
    given = plan(tmp_path)
    assert runner.run(given, NoLab()) == {"done": 6}
    assert ran == ALL
    assert runner.run(given, NoLab()) == {"kept": 6}
    assert ran == ALL


def test_a_record_holds_what_paired_tests_and_the_guard_need_and_no_path(tmp_path, ran):
    runner.run(plan(tmp_path), NoLab())
    text = path_of(tmp_path / "results", "tiny", 0, "early").read_text()
    found = json.loads(text)
    assert (found["accuracy"], found["n"], found["correct"], found["validation"]) == (0.75, 4, "1101", "10")
    assert found["counts"] == {"labeled": 4, "unlabeled": 4, "test": 4, "validation": 2, "answers": 2}
    assert found["spec"]["seed"] == 0
    assert {"fingerprint", "data", "commit", "code", "versions", "machine", "date", "wall_seconds"} <= found.keys()
    assert str(tmp_path) not in text


def test_a_record_of_before_data_sets_were_written_down_has_that_of_its_task_file(tmp_path, ran):
    runner.run(plan(tmp_path), NoLab())
    assert {record["dataset"] for record in read_all(tmp_path / "results")} == {"rows.csv + rows2.csv"}
    for task in ("banking77-12-1300", "tiny"):
        write(tmp_path / "old" / task / "0" / "knn.json", {"task": task})
    assert [record["dataset"] for record in read_all(tmp_path / "old")] == ["banking77", "tiny"]


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(tmp_path, ran):
    given = plan(tmp_path)
    runner.run(given, NoLab())
    for seed, arm in ((0, "default"), (1, "gold")):
        path_of(given.results, "tiny", seed, arm).unlink()
    ran.clear()
    assert runner.run(given, NoLab()) == {"done": 2, "kept": 4}
    assert ran == [("tiny", 0, "default"), ("tiny", 1, "gold")]


def test_a_changed_arm_makes_its_pieces_stale_and_only_force_runs_them(tmp_path, ran):
    runner.run(plan(tmp_path), NoLab())
    before = path_of(tmp_path / "results", "tiny", 0, "default").read_text()
    changed = [arm | {"spec": {"evolve": {"n_epochs": 3}}} if arm["name"] == "default" else arm for arm in ARMS["arms"]]
    arms = Arms.model_validate(ARMS | {"arms": changed})
    ran.clear()
    assert runner.run(plan(tmp_path, arms=arms), NoLab()) == {"stale": 2, "kept": 4}
    assert (ran, path_of(tmp_path / "results", "tiny", 0, "default").read_text()) == ([], before)
    chosen = arms.pick("default")
    assert runner.run(plan(tmp_path, arms=arms, chosen=chosen, force=True), NoLab()) == {"done": 2}
    assert runner.run(plan(tmp_path, arms=arms), NoLab()) == {"kept": 6}


def test_an_arm_that_is_put_between_others_makes_no_piece_stale(tmp_path, ran):
    runner.run(plan(tmp_path), NoLab())
    new = {"name": "new", "title": "n", "group": "no LM", "kind": "cheap", "function": "knn", "priority": 0}
    arms = Arms.model_validate(ARMS | {"arms": [new, *ARMS["arms"]]})
    assert runner.run(plan(tmp_path, arms=arms), NoLab()) == {"done": 2, "kept": 6}
    assert ran[6:] == [("tiny", 0, "new"), ("tiny", 1, "new")]


def test_changed_rows_make_every_piece_stale(tmp_path, ran):
    given = plan(tmp_path)
    runner.run(given, NoLab())
    rows = (tmp_path / "rows2.csv").read_text()
    (tmp_path / "rows2.csv").write_text(rows.replace("thing", "object"))
    assert runner.run(given, NoLab()) == {"stale": 6}


def test_a_piece_that_another_process_holds_is_left_to_it(tmp_path, ran):
    given = plan(tmp_path, seeds=[0])
    with held(path_of(given.results, "tiny", 0, "default").with_suffix(".lock")):
        assert runner.run(given, NoLab()) == {"done": 2, "elsewhere": 1}
    assert ("tiny", 0, "default") not in ran
    assert list(given.results.rglob("*.lock*")) == []


def test_a_piece_whose_stages_another_process_is_making_comes_after_the_others(tmp_path, ran, monkeypatch):
    without = {"name": "no_x", "title": "n", "group": "ablation", "kind": "job", "of": "default", "priority": 0}
    arms = Arms.model_validate(ARMS | {"arms": [*ARMS["arms"], without]})
    given = plan(tmp_path, arms=arms, chosen=arms.pick("no_x,early"), seeds=[0])
    lock = path_of(given.results, "tiny", 0, "default").with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps(owner(os.getppid())))
    slept = []

    def sleep(seconds):  # the other process ends while this one has nothing else to do
        slept.append(seconds)
        lock.unlink()

    monkeypatch.setattr(runner.time, "sleep", sleep)
    assert runner.run(given, NoLab()) == {"done": 2}
    assert [arm for _, _, arm in ran] == ["early", "no_x"]
    assert slept == [runner.POLL_SECONDS]


def test_tens_of_priority_run_outermost(tmp_path, ran):
    late = [arm | {"priority": 10} if arm["name"] == "default" else arm for arm in ARMS["arms"]]
    runner.run(plan(tmp_path, arms=Arms.model_validate(ARMS | {"arms": late})), NoLab())
    assert [(seed, arm) for _, seed, arm in ran] == [
        *((0, "early"), (0, "gold"), (1, "early"), (1, "gold")),
        *((0, "default"), (1, "default")),
    ]


def test_a_failure_is_written_down_the_rest_goes_on_and_the_next_run_tries_again(tmp_path, ran, monkeypatch):
    given, good = plan(tmp_path, seeds=[0]), runner.run_piece

    def broken(piece):
        if piece.arm.name == "early":
            raise ValueError("no such luck")
        return good(piece)

    monkeypatch.setattr(runner, "run_piece", broken)
    assert runner.run(given, NoLab()) == {"failed": 1, "done": 2}
    record = read(path_of(given.results, "tiny", 0, "early"))
    assert record is not None
    assert record["error"] == {"type": "ValueError", "code": None, "message": "no such luck"}
    assert state(record, record["fingerprint"]) == "failed"
    monkeypatch.setattr(runner, "run_piece", good)
    monkeypatch.setattr(runner, "_now", lambda: "9999")  # seconds are the records' grain
    assert runner.run(given, NoLab()) == {"done": 1, "kept": 2}


def test_what_failed_in_another_process_during_this_run_is_not_tried_twice(tmp_path, ran, monkeypatch):
    given = plan(tmp_path, seeds=[0], chosen=plan(tmp_path).arms.pick("early"))
    monkeypatch.setattr(runner, "run_piece", lambda piece: 1 / 0)
    assert runner.run(given, NoLab()) == {"failed": 1}
    monkeypatch.setattr(runner, "_now", lambda: "2000")
    monkeypatch.setattr(runner, "run_piece", lambda piece: pytest.fail("tried again"))
    assert runner.run(given, NoLab()) == {"failed": 1}


def test_two_processes_with_force_do_not_run_each_others_pieces_again(tmp_path, ran, monkeypatch):
    given = plan(tmp_path, seeds=[0], force=True)
    runner.run(given, NoLab())
    monkeypatch.setattr(runner, "_now", lambda: "2000")  # this one began before those pieces were done
    assert runner.run(given, NoLab()) == {"kept": 3}
    monkeypatch.setattr(runner, "_now", lambda: "9999")
    assert runner.run(given, NoLab()) == {"done": 3}


def test_no_piece_is_begun_after_the_time_is_up(tmp_path, ran):
    assert runner.run(plan(tmp_path, minutes=0.0), NoLab()) == {"not begun": 6}
    assert ran == []


def test_a_pool_too_small_for_a_ratio_is_said_and_stops_nothing(tmp_path, ran):
    arms = [*ARMS["arms"], {"name": "big", "title": "b", "group": "ratio", "kind": "job", "priority": 9, "unlabeled_ratio": 3}]
    found = runner.run(plan(tmp_path, arms=Arms.model_validate(ARMS | {"arms": arms})), NoLab())
    assert found == {"done": 6, "cannot run": 2}

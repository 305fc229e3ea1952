"""What the arms mean as job specs, and which arms there are."""

import pytest
import yaml

from benchmarks.quality.arms import HERE, laid_upon, load_arms
from benchmarks.quality.cheap import CHEAP
from benchmarks.quality.command import main
from benchmarks.quality.errors import BenchError
from benchmarks.quality.run_piece import KINDS
from benchmarks.quality.tasks import find_tasks
from worker.semisup.spec import Percentile


@pytest.fixture(scope="module")
def arms():
    return load_arms()


def test_every_arm_is_a_valid_job_spec_on_every_task(arms):
    for task in find_tasks(None):
        for arm in arms.arms:
            spec = arms.spec(arm, task, 3)
            assert (spec.seed, spec.answer.kind) == (3, task.answer)
            assert spec.hyperparameters.lora.r == arms.common["hyperparameters"]["lora"]["r"]


def test_every_arm_has_something_that_runs_it(arms):
    assert {arm.kind for arm in arms.arms} <= KINDS.keys()
    assert {arm.function for arm in arms.arms if arm.function} == CHEAP.keys()


def test_an_ablation_is_the_default_but_for_one_thing(arms):
    (task,) = find_tasks("fpb-100")
    default = arms.spec(arms["default"], task, 0).model_dump()
    for arm in arms.arms:
        if arm.group == "ablation" and arm.same_size_as is None:
            found = arms.spec(arm, task, 0).model_dump()
            assert {key for key in default if default[key] != found[key]} <= set(arm.spec), arm.name


def test_partial_results_are_useful_cheap_arms_then_control_and_default(arms):
    order = [arm.name for arm in arms.pick(None)]
    assert order[:5] == ["majority", "knn", "lr", "lr_self_training", "lr_self_training_weighted"]
    assert order[5:8] == ["labels_only_early", "default", "labels_only_matched"]
    assert {arm.name for arm in arms.pick(None, quick=True)} == set(order[:8])


def test_a_block_of_another_strategy_replaces_the_one_below():
    under = {"selection": {"strategy": "percentile", "theta": 30.0}, "evolve": {"n_epochs": 2, "format": "plain"}}
    over = {"selection": {"strategy": "all"}, "evolve": {"n_epochs": 3}}
    assert laid_upon(under, over) == {"selection": {"strategy": "all"}, "evolve": {"n_epochs": 3, "format": "plain"}}
    assert laid_upon(under, {"selection": {"theta": 50.0}})["selection"] == {"strategy": "percentile", "theta": 50.0}


def edited(tmp_path, change):
    given = yaml.safe_load(HERE.read_text(encoding="utf-8"))
    change(given)
    path = tmp_path / "arms.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g["arms"][0].pop("function"), "majority: an arm of kind cheap needs function"),
        (lambda g: g["arms"].append(g["arms"][0]), "two arms share a name: majority"),
        (lambda g: g.update(control="nobody"), "no arm is called nobody"),
        (lambda g: g["arms"][-1].update(of="knn"), "rounds_4: knn is not an arm of kind job"),
    ],
)
def test_a_wrong_arms_file_says_what_is_wrong(tmp_path, change, words):
    with pytest.raises(BenchError, match=words):
        load_arms(edited(tmp_path, change))


def test_a_wrong_spec_field_names_arm_task_and_field(tmp_path):
    arms = load_arms(edited(tmp_path, lambda g: g["arms"][-1].update(spec={"rounds": 99})))
    (task,) = find_tasks("fpb-100")
    with pytest.raises(BenchError, match=r"Arm rounds_4 on task fpb-100 is no valid job spec: rounds: "):
        arms.spec(arms["rounds_4"], task, 0)


def test_an_unknown_arm_is_answered_with_those_there_are(arms):
    with pytest.raises(BenchError, match="no arm is called knnn; there are majority, knn"):
        arms.pick("knnn")


def test_the_default_of_the_project_is_what_the_benchmark_calls_default(arms):
    (task,) = find_tasks("fpb-100")
    assert arms["default"].spec == {}
    assert isinstance(arms.spec(arms["paper"], task, 0).selection, Percentile)


def test_the_command_reads_another_arms_file_and_names_what_is_wrong_in_it(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("control: nobody\nours: nobody\nceiling: nobody\narms: []\n")
    assert main(["run", "--tasks", "quick", "--arms-file", str(path), "--results", str(tmp_path / "results")]) == 2
    assert "mine.yaml: the file: Value error, no arm is called nobody" in capsys.readouterr().err

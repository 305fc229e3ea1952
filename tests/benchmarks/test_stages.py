"""Which stages two arms share, that each is made once, and how long the strict control may train."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.quality.arms import Arms
from benchmarks.quality.bench import Bench
from benchmarks.quality.draw import draw
from benchmarks.quality.errors import BenchError
from benchmarks.quality.rows import load_rows
from benchmarks.quality.stages import SharedKeep
from tests.benchmarks.pieces import NoLab, plan
from worker.semisup.data import Adapter, Prediction, Vote
from worker.semisup.spec import RandomShare

JOB = {"group": "ablation", "kind": "job", "priority": 1, "title": "t"}
ARMS = {
    "common": {"profile": "paper"},
    "control": "base",
    "ours": "base",
    "ceiling": "base",
    "arms": [
        JOB | {"name": "base"},
        JOB | {"name": "kept_all", "spec": {"selection": {"strategy": "all"}}},
        JOB | {"name": "longer", "spec": {"warmup": {"n_epochs": 3}}},
        JOB | {"name": "fewer", "unlabeled_ratio": 0.5},
        JOB | {"name": "rounds", "spec": {"rounds": 2}},
        {"name": "early", "title": "t", "group": "labels only", "kind": "early", "of": "base", "priority": 1},
        {"name": "percentile", "title": "t", "group": "labels only", "kind": "early", "of": "base", "priority": 1},
    ],
}


@pytest.fixture
def bench(tmp_path):
    given = plan(tmp_path)
    task = given.tasks[0]
    drawn = draw(task, load_rows(task, tmp_path), 0)
    return Bench(task, 0, drawn, NoLab(), Arms.model_validate(ARMS), tmp_path / "work", "code")


def places(bench, arm):
    piece = bench.piece(bench.arms[arm])
    names = [f"round-1/{name}" for name in ("own-neighbours", "warmup", "propagate", "select", "evolve")]
    return [piece._place(name) for name in [*names, "round-2/propagate", "labels-only/stop"]]


def alike(left, right):
    return [one == other for one, other in zip(left, right, strict=True)]


def test_arms_share_stages_up_to_where_they_differ(bench):
    base = places(bench, "base")
    assert alike(base, places(bench, "base")) == [True] * 7
    assert alike(base, places(bench, "kept_all")) == [True, True, True, False, False, False, False]
    assert alike(base, places(bench, "longer")) == [True, False, False, False, False, False, False]


def test_a_smaller_pool_shares_the_warm_up_and_no_votes(bench):
    assert alike(places(bench, "base"), places(bench, "fewer")) == [True, True, False, False, False, False, False]


def test_a_ratio_takes_a_pool_that_is_nearly_large_enough_and_no_other(bench):
    def rows(ratio):
        arm = bench.arms["fewer"].model_copy(update={"unlabeled_ratio": ratio})
        return len(bench.piece(arm).draw.split.unlabeled)

    assert [rows(0.25), rows(1.0)] == [1, 4]  # 4 labeled rows, a pool of 4
    with pytest.raises(BenchError, match="fewer than the 5"):
        rows(1.01)  # 5 rows are wanted; 4 of 5 are not nearly all


def test_more_rounds_share_the_first(bench):
    assert alike(places(bench, "base"), places(bench, "rounds"))[:6] == [True] * 6


@pytest.mark.parametrize("changes", [{"code": "other"}, {"lab": NoLab()}])
def test_another_version_of_the_code_or_another_base_shares_nothing(bench, changes):
    if "lab" in changes:
        changes["lab"].name = "another"
    other = Bench(**{name: changes.get(name, getattr(bench, name)) for name in bench.__dataclass_fields__})
    assert alike(places(bench, "base"), places(other, "base")) == [False] * 7


def test_a_stage_that_nobody_declared_is_shared_with_nobody(bench):
    one, other = (bench.piece(bench.arms[name])._place("round-1/new-stage") for name in ("base", "kept_all"))
    assert one != other


def test_a_stage_is_made_once_and_read_back_by_the_next_arm(tmp_path):
    made = []

    def work(part):
        made.append(list(part))
        return [Prediction(str(i), "A", 0.5, True, 1) for i in part]

    keeps = [SharedKeep(tmp_path, lambda stage: "here", chunk_size=2) for _ in range(2)]
    first, second = (keep.within("round-1").map("evaluate", [1, 2, 3], work) for keep in keeps)
    assert made == [[1, 2], [3]]
    assert first == second
    assert [list(keep.seconds()) for keep in keeps] == [["round-1/evaluate"]] * 2
    assert keeps[0].seconds() == keeps[1].seconds()


def test_a_stage_whose_process_was_killed_is_made_again(tmp_path):
    keep = SharedKeep(tmp_path, lambda stage: "here", chunk_size=2)
    half = tmp_path / "here" / "stop" / "whole"
    half.mkdir(parents=True)
    (half / "payload.json").write_text("{")
    assert keep("stop", lambda: Vote("a", "x", "x", 0.5, 1)).answer == "x"
    assert json.loads((half / "manifest.json").read_text())["type"] == "Vote"
    assert [path.name for path in half.parent.iterdir()] == ["whole"]


def test_an_adapters_own_folder_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    source = tmp_path / "tmp" / "adapter"
    source.mkdir(parents=True)
    (source / "weights").write_text("w")
    keep = SharedKeep(tmp_path / "kept", lambda stage: "here", chunk_size=2)
    adapter = keep("warmup", lambda: Adapter(str(source), "lora", "s", 1, 1, 0.5))
    assert not source.exists()
    assert (tmp_path / "kept" / "here" / "warmup" / "whole" / "files" / "weights").read_text() == "w"
    assert adapter.path == str(tmp_path / "kept" / "here" / "warmup" / "whole" / "files")


def test_the_strict_control_may_take_as_many_steps_as_the_default_takes(bench, monkeypatch):
    """Batch 2. 4 labels in both formats, 2 epochs: 8 steps. 4 labels and 4 pool rows, 3 epochs: 12. 20 steps are 5 epochs."""
    piece = bench.piece(bench.arms["early"])
    spec = piece.spec.model_validate(
        {
            "selection": {"strategy": "all"},
            "warmup": {"n_epochs": 2, "format": "mixed"},
            "evolve": {"n_epochs": 3, "format": "plain"},
            "hyperparameters": {"batch_size": 2},
        }
    )
    piece = type(piece)(bench, piece.arm, spec, piece.draw)
    monkeypatch.setattr(type(piece), "task", lambda self: SimpleNamespace(recipe=recipe_of(spec)))
    assert piece.horizon() == 5
    none = spec.model_copy(update={"selection": RandomShare(share=0.0)})
    assert type(piece)(bench, piece.arm, none, piece.draw).horizon() == 4  # 6 steps instead of 12: 14 in all


def recipe_of(spec):
    from worker.semisup.stages.recipe import resolve_recipe

    def recipe(stage, examples):
        part = getattr(spec, stage)
        given = {"n_epochs": part.n_epochs, "format": part.format}
        return resolve_recipe(spec.hyperparameters, stage, examples=examples, parameters=10, **given)

    return recipe

"""Checkpoints inside training: interrupted anywhere, a training ends with the bytes of one that was left alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.semisup.test_fit import EXAMPLES, recipe
from tests.semisup.trainings import STEPS, Killed, Run, same
from worker.semisup.data import Adapter
from worker.semisup.errors import Stopped
from worker.semisup.keep import DirectoryKeep
from worker.semisup.shelf import NEVER, DirectoryShelf, Every
from worker.semisup.spec import Training
from worker.semisup.stages.fit import Tokens, fit


@pytest.fixture
def dropping(lab, monkeypatch):
    """Dropout in full training too: the tiny LM has none of its own but in attention."""
    original = lab._load

    def load(adapter, trainable=None):
        network = original(adapter, trainable)
        for layer in network.modules():
            if hasattr(layer, "attention_dropout"):
                layer.attention_dropout = 0.1
        return network

    monkeypatch.setattr(lab, "_load", load)
    return lab


def thinned_by_epoch(epoch: int) -> list[Tokens]:
    return [Tokens((e.prompt[0], 60 + epoch), e.response) for e in EXAMPLES]


@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_a_training_killed_after_any_step_ends_with_the_same_bytes(dropping, tmp_path, trainable):
    """30 steps over 10 epochs that end in short batches, dropout on, two micro-batches a step; examples differ by epoch."""
    quiet = Run(dropping, tmp_path / "quiet", trainable)(examples=thinned_by_epoch)
    every_step, saved = Run(dropping, tmp_path / "all", trainable, Every(0, 1)), tmp_path / "saved"

    def put(shelf, step, folder):
        shutil.copytree(folder, saved / f"step-{step:08d}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectoryShelf, "put", put)
        assert every_step(examples=thinned_by_epoch) == same(quiet)
    assert len(list(saved.iterdir())) == STEPS - 1
    for step in range(1, STEPS):
        run = Run(dropping, tmp_path / f"from-{step}", trainable)
        shutil.copytree(saved / f"step-{step:08d}", run.folder / "warmup" / f"step-{step:08d}")
        assert run(examples=thinned_by_epoch) == same(quiet), f"resumed after step {step}"
        assert run.steps == list(range(step + 1, STEPS + 1))


def test_a_crash_costs_no_more_than_one_interval_and_two_checkpoints_are_kept(lab, tmp_path):
    quiet = Run(lab, tmp_path / "quiet")()
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    for kill_at in (3, 9, 15, 29):
        with pytest.raises(Killed):
            run(kill_at)
    assert [path.name for path in sorted((run.folder / "warmup").iterdir())] == ["step-00000024", "step-00000028"]
    assert run() == same(quiet)
    repeated = len(run.steps) - STEPS
    assert repeated <= 4 * 4
    assert run.steps[3:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def damage(folder: Path, how: str) -> None:
    weights = folder / "weights.safetensors"
    if how == "a flipped bit":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif how == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "a file gone":
        (folder / "random.safetensors").unlink()
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "nonsense for a manifest":
        (folder / "manifest.json").write_text("[]")
    elif how == "files of another step":
        shutil.copy(folder.with_name("step-00000008") / "optimizer.safetensors", folder / "optimizer.safetensors")


DAMAGES = (
    "a flipped bit", "cut short", "empty", "a file gone", "no manifest", "nonsense for a manifest", "files of another step",
)  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_broken_checkpoint_is_noticed_and_the_one_before_is_used(lab, tmp_path, how):
    quiet = Run(lab, tmp_path / "quiet")()
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    with pytest.raises(Killed):
        run(13)
    damage(run.folder / "warmup" / "step-00000012", how)
    run.steps.clear()
    assert run() == same(quiet)
    assert run.steps[0] == 9
    [(code, told)] = run.notes
    assert code == "artifact_corrupt"
    assert "after step 12 is not used" in told


def test_when_all_are_broken_the_training_starts_again(lab, tmp_path):
    quiet = Run(lab, tmp_path / "quiet")()
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    with pytest.raises(Killed):
        run(13)
    for folder in (run.folder / "warmup").iterdir():
        damage(folder, "cut short")
    run.steps.clear()
    assert run() == same(quiet)
    assert (run.steps[0], len(run.notes)) == (1, 2)


def test_another_trainings_checkpoint_is_not_used(lab, tmp_path):
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    with pytest.raises(Killed):
        run(5)
    other = Run(lab, run.folder, changes={"learning_rate": 2e-2})
    other()
    assert other.steps[0] == 1
    assert "belongs to another training" in other.notes[0][1]


def test_going_on_with_other_threads_is_told(lab, tmp_path):
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    with pytest.raises(Killed):
        run(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        run()
    told = "warmup goes on with another threads: not the same bits as if it had not stopped."
    assert run.notes == [("not_bit_reproducible", told)]


def test_nothing_but_safetensors_and_json_is_written(lab, tmp_path):
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    with pytest.raises(Killed):
        run(5)
    folder = run.folder / "warmup" / "step-00000004"
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}


def test_what_was_seen_after_an_epoch_survives(lab, tmp_path):
    looks = []

    def look(epoch, lm):
        looks.append(epoch)
        return [epoch, lm.generate([[5, 6]], temperature=0.0, seeds=[0], max_new_tokens=2)[0].mean_nll] if epoch % 2 else None

    quiet: list = []
    Run(lab, tmp_path / "quiet")(after_epoch=look, looked=quiet)
    run, seen = Run(lab, tmp_path / "run", every=Every(0, 2)), []
    with pytest.raises(Killed):
        run(22, after_epoch=look, looked=seen)
    again: list = []
    looks.clear()
    run(after_epoch=look, looked=again)
    assert again == quiet
    assert [epoch for epoch, _ in again] == [1, 3, 5, 7, 9]
    assert looks == [8, 9, 10]


def test_told_to_stop_it_leaves_a_checkpoint_after_the_step_and_goes_on_from_there(lab, tmp_path):
    quiet = Run(lab, tmp_path / "quiet")()
    run = Run(lab, tmp_path / "run", every=Every(3600, 0))
    stop_at = 7

    class Told(DirectoryShelf):
        def stopping(self):
            return len(run.steps) >= stop_at - 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.semisup.trainings.DirectoryShelf", Told)
        with pytest.raises(Stopped, match="after step 7 of 30"):
            run()
    run.steps.clear()
    assert run() == same(quiet)
    assert run.steps[0] == 8


def test_checkpoints_go_when_the_stage_is_stored(lab, tmp_path):
    keep = DirectoryKeep(tmp_path, {}, every=Every(0, 4))
    lab.shelf, lab.tick = keep.shelf, keep.tick
    seen: list[Path] = []

    def make() -> Adapter:
        made = fit(lab, None, EXAMPLES, recipe(n_epochs=4), Training(trainable="full"), seed=1)
        seen.extend(sorted((tmp_path / "checkpoints" / "round-1" / "warmup").iterdir()))
        return made

    keep.within("round-1")("warmup", make)
    assert [path.name for path in seen] == ["step-00000004", "step-00000008"]
    assert list((tmp_path / "checkpoints").rglob("*.safetensors")) == []


def test_time_decides_unless_a_checkpoint_costs_more_than_it_saves():
    every = Every(60.0, 0)
    assert not every.due(59, 1000, 0.1)
    assert every.due(60, 1, 0.1)
    assert not every.due(60, 1, 10.0), "ten seconds each: every 200 at most"
    assert every.due(200, 1, 10.0)
    assert not NEVER.due(1e9, 10**9, 0)

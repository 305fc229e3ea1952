"""Response-only cross-entropy, plain and weighted per example."""

from torch import Tensor


def sft(nll: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the response tokens' NLL and their number: the mean over tokens once divided."""
    return nll.sum(), mask.sum()


def weighted_sft(nll: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's tokens count `weight` times, in the loss and in its norm; equal weights give `sft`."""
    return (nll * weight[:, None]).sum(), (mask * weight[:, None]).sum()

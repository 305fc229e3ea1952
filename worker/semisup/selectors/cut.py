"""What a selector is given and what it gives back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scores:
    """The n candidates that could be parsed, in upload order; all arrays have shape (n,)."""

    mean_nll: NDArray[np.float64]  # nats per token
    agreement: NDArray[np.float64]  # share of votes, in (0, 1]
    label: NDArray[np.str_]  # pseudo-labels
    disputed: NDArray[np.bool_]  # True where the collaborators did not all agree


@dataclass(frozen=True, slots=True)
class Cut:
    """kept: bool (n,). `threshold` is the mean_nll cut where there is one. `reason` names why the others were dropped."""

    kept: NDArray[np.bool_]
    threshold: float | None
    reason: str

"""What a selector is given and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Judgements:
    """The m calibration rows that got an answer; both arrays have shape (m,)."""

    mean_nll: NDArray[np.float64]  # nats per token, on the candidates' scale
    correct: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """The n candidates that could be parsed, in upload order; all arrays have shape (n,)."""

    mean_nll: NDArray[np.float64]  # nats per token
    agreement: NDArray[np.float64]  # share of votes, in (0, 1]
    label: NDArray[np.str_]  # pseudo-labels
    disputed: NDArray[np.bool_]  # True where the collaborators did not all agree
    judged: Judgements | None = None  # None: nothing was calibrated


@dataclass(frozen=True, slots=True)
class Cut:
    """kept: bool (n,). `threshold` is the mean_nll cut where there is one. `reason` names why the others were dropped.

    `guarantee` and `note` as in `data.Selection`.
    """

    kept: NDArray[np.bool_]
    threshold: float | None
    reason: str
    guarantee: Mapping[str, Any] | None = None
    note: str | None = None

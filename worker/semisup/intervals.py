"""How sure an accuracy is, and a difference of two: rows that ask the same thing are one observation, not several.

A network answers a row and its copy alike, so a copy shows nothing new. It keeps its weight in the mean, since traffic that
repeats itself is what users have, and loses it in the interval and in the test. Without copies these are the textbook ones.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest


def accuracy_interval(correct: Sequence[bool], level: float, alike: Sequence[int] | None = None) -> tuple[float, float]:
    """Wilson's score interval (1927) of the mean, for Kish's effective number of rows where some are copies.

    `alike`: for every row the number of its group of copies; None: no row has a copy. Raises ValueError without rows.
    """
    if not correct:
        raise ValueError("no answers, so there is no accuracy")
    sizes = _sizes(len(correct), alike)
    z, share = _z(level), sum(correct) / len(correct)
    n = float(sizes.sum() ** 2 / (sizes**2).sum())
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(ours: Sequence[bool], theirs: Sequence[bool], level: float, alike: Sequence[int] | None = None) -> dict[str, Any]:
    """Ours minus theirs on the same rows: mean difference, normal interval of it at `level`, exact McNemar p.

    `alike` as above. The interval's variance is the cluster-robust one of a mean, groups of copies being the clusters; the
    test counts a group once. `won` and `lost` count groups as well. Raises ValueError where the two are not of one length.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} answers cannot be paired with {len(theirs)}")
    difference = np.array(ours, np.float64) - np.array(theirs, np.float64)  # (n,), each -1, 0 or 1
    mean, sizes = float(difference.mean()), _sizes(len(ours), alike)
    sums = _sums(difference, alike)  # (groups,)
    groups = len(sizes)
    spread = float(((sums - mean * sizes) ** 2).sum()) * groups / (groups - 1) if groups > 1 else 0.0
    half = _z(level) * spread**0.5 / len(difference) if groups > 1 else 1.0
    won, lost = int((sums > 0).sum()), int((sums < 0).sum())
    return {
        "difference": mean,
        "interval": [mean - half, mean + half],
        "half_width": half,
        "won": won,
        "lost": lost,
        "p_mcnemar": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def _sizes(rows: int, alike: Sequence[int] | None) -> NDArray[np.float64]:
    """(groups,): rows of each group of copies."""
    return _sums(np.ones(rows), alike)


def _sums(values: NDArray[np.float64], alike: Sequence[int] | None) -> NDArray[np.float64]:
    """(groups,): `values` added up within each group."""
    if alike is None:
        return values
    _, group = np.unique(np.asarray(alike), return_inverse=True)
    return np.bincount(group, weights=values).astype(np.float64)

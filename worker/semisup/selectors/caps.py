"""Caps: what is dropped after the cut, so that what is trained on is neither one class nor one prompt many times over.

Pure functions from bool (n,) to bool (n,); the more confident row stays, ties go to the earlier one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 512  # rows compared at once


def cap_classes(
    kept: NDArray[np.bool_], mean_nll: NDArray[np.float64], label: NDArray[np.str_], max_share: float
) -> NDArray[np.bool_]:
    """`kept` less the least confident rows of labels that would exceed `max_share` of what is left.

    k labels can never all stay below 1/k: then each may have an equal share, so the cap never drops a label entirely.
    """
    out = kept.copy()
    names, counts = np.unique(label[kept], return_counts=True)
    if not len(names):
        return out
    share, total = max(max_share, 1 / len(names)), int(counts.sum())
    while True:  # dropping rows of one label makes the others' shares larger: the largest total at which all fit
        most = int(share * total + 1e-9)
        fits = int(np.minimum(counts, most).sum())
        if fits == total:
            break
        total = fits
    for name in names[counts > most]:
        members = np.flatnonzero(kept & (label == name))
        out[members[np.argsort(mean_nll[members], kind="stable")[most:]]] = False
    return out


def cap_near_duplicates(
    kept: NDArray[np.bool_], mean_nll: NDArray[np.float64], embeddings: NDArray[Any], most: int, similarity: float
) -> NDArray[np.bool_]:
    """`kept` less each row that has `most` more confident kept rows at a cosine of `similarity` or above.

    embeddings: (number of kept rows, d), unit length, in the order of the kept rows. Quadratic in that number.
    """
    rows = np.flatnonzero(kept)
    order = np.argsort(mean_nll[rows], kind="stable")
    sorted_units = embeddings[order]
    stays = np.zeros(len(rows), bool)  # in the order of confidence
    for start in range(0, len(rows), BLOCK):
        near = np.round(sorted_units[start : start + BLOCK] @ sorted_units[: start + BLOCK].T, 6) >= similarity
        for offset in range(len(near)):
            at = start + offset
            stays[at] = int((near[offset, :at] & stays[:at]).sum()) < most
    out = kept.copy()
    out[rows[order[~stays]]] = False
    return out

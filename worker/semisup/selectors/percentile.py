"""SemiEvol's adaptive selection (arXiv 2410.14745, adaptive selection): keep what is below the pool's theta-th percentile."""

import numpy as np

from worker.semisup.selectors.cut import Cut, Scores
from worker.semisup.spec import ClassPercentile, Percentile


def percentile(scores: Scores, spec: Percentile, seed: int) -> Cut:
    """H_j < Percentile_theta(H). With `scope` disputed, agreed candidates are kept uncut (the authors' released code).

    When all values in scope are equal a strict cut would keep none of them; they are all kept, unless theta is 0.
    """
    inside = scores.disputed if spec.scope == "disputed" else np.ones(len(scores.mean_nll), bool)
    if not inside.any():
        return Cut(~inside, None, "above_percentile")
    values = scores.mean_nll[inside]
    cut = float(np.percentile(values, spec.theta))
    below = scores.mean_nll < cut if spec.strict else scores.mean_nll <= cut
    if spec.theta > 0 and values.min() == values.max():
        below = np.ones_like(below)
    if spec.theta == 0:
        below = np.zeros_like(below)
    return Cut(~inside | below, cut, "above_percentile")


def class_percentile(scores: Scores, spec: ClassPercentile, seed: int) -> Cut:
    """The theta percent most confident of each pseudo-label, rounded up, so that no class is starved."""
    kept = np.zeros(len(scores.mean_nll), bool)
    for label in np.unique(scores.label):
        members = np.flatnonzero(scores.label == label)
        count = int(np.ceil(round(spec.theta / 100 * len(members), 9)))
        kept[members[np.argsort(scores.mean_nll[members], kind="stable")[:count]]] = True
    return Cut(kept, None, "above_class_percentile")

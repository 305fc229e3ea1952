"""SELECTORS: which candidates to train on. Selectors see scores and pseudo-labels, never text, labels or a network.

Each is a pure function `(Scores, its spec, seed) -> Cut`; ties are broken by upload order. The table mirrors
`spec.SelectionSpec`, and a test compares them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from worker.semisup.selectors.cut import Cut, Scores
from worker.semisup.selectors.percentile import class_percentile, percentile
from worker.semisup.selectors.risk import risk_control
from worker.semisup.selectors.simple import agreement, keep_all, random_share, threshold

Selector = Callable[[Scores, Any, int], Cut]

SELECTORS: Mapping[str, Selector] = {
    "percentile": percentile,
    "class_percentile": class_percentile,
    "threshold": threshold,
    "agreement": agreement,
    "all": keep_all,
    "random": random_share,
    "risk_control": risk_control,
}

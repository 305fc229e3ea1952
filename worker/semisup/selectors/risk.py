"""Selection with a guarantee: Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) on one confidence threshold.

Every threshold t of a grid is a hypothesis "the precision of {score <= t} is below the target", tested with an exact
binomial p-value on calibration rows; the fallback procedure (Wiens 2003) keeps the chance that any true one is rejected
at most 1 - confidence. Grid and order depend on the pool's scores and the number of calibration rows alone: see
docs/selection.md for why that matters.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from worker.semisup.selectors.cut import Cut, Judgements, Scores
from worker.semisup.selectors.percentile import percentile
from worker.semisup.selectors.simple import keep_all
from worker.semisup.spec import KeepAll, Percentile, RiskControl

GRID = 20  # thresholds between the strictest and everything
STRICTEST = 0.25  # share of the pool that the strictest threshold keeps at least
STARTS = 3  # walks that share the error budget, begun at equal distances in the grid; fewer with few calibration rows


def risk_control(scores: Scores, spec: RiskControl, seed: int) -> Cut:
    """Keep mean_nll <= t for the largest certified t, or what `fallback` keeps, with a note that says why."""
    judged, needed = scores.judged, rows_needed(spec.precision, spec.confidence)
    found = len(judged.mean_nll) if judged else 0
    guarantee = {"target": spec.precision, "confidence": spec.confidence, "calibration_rows": found, "rows_needed": needed}
    certificate = None
    if judged is not None and found >= needed and len(scores.mean_nll):
        certificate = certify(scores.mean_nll, judged, spec.precision, spec.confidence)
    if certificate is None:
        why = _why_not(spec, judged, found, needed) if len(scores.mean_nll) else None
        fallback = _fallback(scores, spec, seed)
        return Cut(fallback.kept, fallback.threshold, fallback.reason, {**guarantee, **NOTHING}, why)
    threshold, kept, errors, level = certificate
    guarantee |= {"certified": True, "threshold": threshold, "calibration_n": kept, "errors": errors}
    guarantee |= {"lower_bound": float(beta.ppf(level, kept - errors, errors + 1))}
    return Cut(scores.mean_nll <= threshold, threshold, "above_certified_threshold", guarantee)


NOTHING = {"certified": False, "threshold": None, "calibration_n": None, "errors": None, "lower_bound": None}


def certify(
    pool: NDArray[np.float64], judged: Judgements, precision: float, confidence: float
) -> tuple[float, int, int, float] | None:
    """(t, calibration rows with score <= t, wrong ones among them, level of its test) of the largest certified t, or None.

    pool: (n,) scores with n > 0. The level is at most 1 - confidence; the Clopper-Pearson lower bound of the precision
    at that level is at or above `precision` exactly when t is certified.
    """
    grid = thresholds(pool, len(judged.mean_nll), precision, confidence)
    inside = judged.mean_nll <= np.array([t for t, _ in grid])[:, None]  # (thresholds, m)
    kept, errors = inside.sum(1), (inside & ~judged.correct).sum(1)
    p_values = binom.cdf(errors, kept, 1 - precision)  # of "precision is below the target", given how many are kept
    best, inherited = None, 0.0
    for (threshold, share), n, wrong, p in zip(grid, kept, errors, p_values, strict=True):
        level = share * (1 - confidence) + inherited
        certified = bool(0 < level >= p)
        inherited = level if certified else 0.0  # what a rejected hypothesis had passes on to the next one
        if certified:
            best = (threshold, int(n), int(wrong), level)
    return best


def thresholds(pool: NDArray[np.float64], judged: int, precision: float, confidence: float) -> list[tuple[float, float]]:
    """(t, its share of the error budget), strictest first; shares add up to 1. Sees no calibration row, only their number.

    The strictest keeps the share of the pool at which the calibration rows it is expected to keep suffice, if all are
    right. Other walks start further up, so that confident mistakes at the bottom do not end everything at once.
    """
    needed = {starts: rows_needed(precision, 1 - (1 - confidence) / starts) for starts in range(STARTS, 0, -1)}
    starts = next((starts for starts, rows in needed.items() if rows <= judged / 2), 1)
    strictest = max(STRICTEST, needed[starts] / judged)
    kept_shares = np.linspace(strictest, 1, GRID) if strictest < 1 else np.ones(1)
    budget = np.zeros(len(kept_shares))
    for start in range(starts):
        budget[start * len(budget) // starts] += 1 / starts
    values, place = np.unique(np.quantile(pool, kept_shares, method="higher"), return_inverse=True)
    shares = np.bincount(place, weights=budget)
    return [(float(t), float(share)) for t, share in zip(values, shares, strict=True)]


def rows_needed(precision: float, confidence: float) -> int:
    """The fewest calibration rows, all right, that show `precision`: precision^n <= 1 - confidence."""
    return math.ceil(round(math.log(1 - confidence) / math.log(precision), 9))


def _why_not(spec: RiskControl, judged: Judgements | None, found: int, needed: int) -> str:
    promise = f"precision {spec.precision:g} with confidence {spec.confidence:g}"
    does = {"percentile": f"kept the most confident {spec.theta:g} %", "all": "kept everything", "none": "kept nothing"}
    then = f"The fallback {does[spec.fallback]}; nothing is promised about it."
    if judged is None:
        return f"There are no calibration rows to show {promise} on. {then} Switch calibration on to get a promise."
    if found < needed:
        return (
            f"{found} calibration rows got an answer; {promise} needs at least {needed}, all of them right. {then} "
            "Add labeled rows, or ask for less."
        )
    return (
        f"No threshold could be shown to give {promise}: {int((~judged.correct).sum())} of {found} calibration answers "
        f"were wrong, and too many of those were confident. {then}"
    )


def _fallback(scores: Scores, spec: RiskControl, seed: int) -> Cut:
    if spec.fallback == "percentile":
        return percentile(scores, Percentile(theta=spec.theta), seed)
    if spec.fallback == "all":
        return keep_all(scores, KeepAll(), seed)
    return Cut(np.zeros(len(scores.mean_nll), bool), None, "not_certified")

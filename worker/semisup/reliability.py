"""How far confidence can be trusted, measured on labeled rows that the judging network was not trained on.

Pure functions of `Calibration.judged` and of the selection made: no gold answer of an unlabeled row is needed for any of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import beta

from worker.semisup.data import Calibration, Judged, Sample, Selection, unanimous
from worker.semisup.spec import Agreement, ClassPercentile, KeepAll, Percentile, RiskControl, SelectionSpec

BINS = 10  # of equal count; fewer where there are fewer rows
MIN_BIN = 5  # rows of a bin, where there are that many

Rule = Callable[[Judged], bool]


def reliability(calibration: Calibration, selection: Selection, spec: SelectionSpec, level: float) -> dict[str, Any]:
    """The report's `reliability` of one round. `precision` is of rows with an answer; `lower` is its bound at `level`."""
    parsed = [row for row in calibration.judged if row.answer is not None]
    rule, words = would_select(spec, selection)
    return {
        "mode": calibration.mode,
        "folds": calibration.folds,
        "judged": len(calibration.judged),
        "unparsed": len(calibration.judged) - len(parsed),
        "weights": dict(sorted(calibration.weights.items())),
        "curve": curve([(row.mean_nll, row.correct) for row in parsed]),
        "agreement": by_agreement(parsed),
        "overall": precision(parsed, level),
        "selected": {"rule": words, **precision([row for row in parsed if rule(row)], level)},
        "level": level,
    }


def curve(pairs: Sequence[tuple[float, bool]]) -> list[dict[str, Any]]:
    """Confidence exp(-mean_nll) (mean of the bin) against accuracy, in bins of equal count, most confident first.

    `pairs` are (mean_nll in nats per token, correct).
    """
    return [
        {
            "mean_nll_from": part[0][0],
            "mean_nll_to": part[-1][0],
            "confidence": sum(math.exp(-nll) for nll, _ in part) / len(part),
            "accuracy": sum(right for _, right in part) / len(part),
            "n": len(part),
        }
        for part in bins_of(pairs, max(1, min(BINS, len(pairs) // MIN_BIN)))
    ]


def bins_of(pairs: Sequence[tuple[float, bool]], count: int) -> list[list[tuple[float, bool]]]:
    """`count` bins of equal size to within one, by mean_nll; pairs of equal mean_nll stay in the order given."""
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return [[ordered[i] for i in part] for part in np.array_split(np.arange(len(ordered)), count) if len(part)]


def by_agreement(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Accuracy of the rows on which the same share of the votes agreed, fullest agreement first."""
    shares: dict[float, list[bool]] = {}
    for row in judged:
        shares.setdefault(round(row.agreement, 6), []).append(row.correct)
    return [
        {"agreement": share, "n": len(right), "accuracy": sum(right) / len(right)}
        for share, right in sorted(shares.items(), reverse=True)
    ]


def precision(judged: Sequence[Judged], level: float) -> dict[str, Any]:
    """Share of right answers with its one-sided lower bound; None where no row is left."""
    n, right = len(judged), sum(row.correct for row in judged)
    return {"n": n, "correct": right, "precision": right / n if n else None, "lower": lower_bound(right, n, level)}


def lower_bound(right: int, n: int, level: float) -> float | None:
    """Exact one-sided Clopper-Pearson bound: with probability `level` or more, the true share is not below it.

    The (1 - level) quantile of Beta(right, n - right + 1); 0 for right = 0, (1 - level) ** (1 / n) for right = n.
    """
    if n == 0:
        return None
    return float(beta.ppf(1 - level, right, n - right + 1)) if right else 0.0


def would_select(spec: SelectionSpec, selection: Selection) -> tuple[Rule, str]:
    """Which judged rows the cut that was made on the pool would have kept, and that cut in words.

    A percentile is a cut relative to the pool: its value, not its rank, is what a judged row is held to.
    """
    cut = selection.threshold
    if isinstance(spec, ClassPercentile):
        cuts = class_cuts(selection.samples)
        return lambda row: row.mean_nll <= cuts.get(str(row.answer), -math.inf), "mean_nll up to the last selected of its class"
    if isinstance(spec, Agreement):
        return lambda row: row.agreement >= spec.min_agreement, f"agreement of at least {spec.min_agreement:g}"
    if isinstance(spec, RiskControl) and not (selection.guarantee or {}).get("certified"):
        usual = Percentile(theta=spec.theta if spec.fallback == "percentile" else 0.0)
        return would_select(KeepAll() if spec.fallback == "all" else usual, selection)
    if isinstance(spec, Percentile):
        return _percentile(spec, selection)
    if cut is not None:
        return lambda row: row.mean_nll <= cut, f"mean_nll at most {cut:.4g}"
    return lambda row: True, "everything with an answer"


def class_cuts(samples: Sequence[Sample]) -> Mapping[str, float]:
    """The highest mean_nll selected of each pseudo-label."""
    cuts: dict[str, float] = {}
    for sample in samples:
        if sample.verdict == "selected" and sample.pseudo_label is not None:
            cuts[sample.pseudo_label] = max(cuts.get(sample.pseudo_label, -math.inf), sample.mean_nll)
    return cuts


def _percentile(spec: Percentile, selection: Selection) -> tuple[Rule, str]:
    cut = selection.threshold
    disputed = spec.scope == "disputed"
    inside = [s for s in selection.samples if s.pseudo_label is not None and not (disputed and unanimous(s))]
    kept = any(s.verdict == "selected" for s in inside)
    if cut is None or not kept:  # nothing was in scope, or theta is 0
        return (lambda row: row.agreement == 1, "all votes agree") if disputed else (lambda row: False, "nothing")
    strict = spec.strict and any(s.mean_nll != cut for s in inside)  # a pool of equal values is kept whole

    def rule(row: Judged) -> bool:
        return (disputed and row.agreement == 1) or (row.mean_nll < cut if strict else row.mean_nll <= cut)

    words = f"mean_nll {'below' if strict else 'at most'} {cut:.4g}"
    return rule, f"{words}, or all votes agree" if disputed else words

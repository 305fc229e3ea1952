"""python -m benchmarks.risk_control: does the promise of the risk_control selector hold, and what does it cost?

Synthetic populations whose true precision at every threshold is known, split into calibration rows and a pool again and
again. Prints a table and writes benchmarks/results/risk_control.json. Takes seconds; the same seed gives the same numbers.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.semisup.selectors.cut import Judgements, Scores
from worker.semisup.selectors.risk import risk_control
from worker.semisup.spec import RiskControl

Floats = NDArray[np.float64]
Select = Callable[[Scores, RiskControl], float | None]  # -> the certified mean_nll, or None

# Chance of a right pseudo-label at quantile u of the score, u in (0, 1): 0 is the most confident row.
POPULATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "separated": lambda u: np.where(u < 0.6, 0.985, 0.4),
    "weak": lambda u: 0.99 - 0.35 * u,
    "confidently wrong": lambda u: np.where(u < 0.1, 0.8, np.where(u < 0.6, 0.98, 0.5)),
    "good": lambda u: 0.995 - 0.08 * u,
    "just below": lambda u: np.full_like(u, 0.895),  # no threshold keeps 0.9: every certificate is a broken promise
    "noise": lambda u: np.full_like(u, 0.7),
}
FINE = (np.arange(20_000) + 0.5) / 20_000
SIZES = (50, 100, 200, 400)
OUT = Path(__file__).parent / "results" / "risk_control.json"


@dataclass(frozen=True)
class Row:
    """Shares are of the pool, rates of the splits. A promise not given breaks nothing and keeps nothing."""

    population: str
    calibration: int
    certified: float
    broken: float  # the population's precision below the certified threshold is under the target
    broken_on_pool: float  # the same of the pool's own rows, whose number adds chance of its own
    kept: float
    oracle: float  # the largest share whose true precision reaches the target


def certified(scores: Scores, spec: RiskControl) -> float | None:
    return risk_control(scores, spec, 0).guarantee["threshold"]  # type: ignore[index]


def uncorrected(scores: Scores, spec: RiskControl) -> float | None:
    """What not to do: the largest threshold whose share of right calibration rows looks good enough."""
    assert scores.judged is not None
    order = np.argsort(scores.judged.mean_nll, kind="stable")
    precision = np.cumsum(scores.judged.correct[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(precision >= spec.precision)
    return float(scores.judged.mean_nll[order][good[-1]]) if len(good) else None


def simulate(
    population: str, calibration: int, *, pool: int, splits: int, spec: RiskControl, seed: int, select: Select = certified
) -> Row:
    """`splits` draws of calibration rows and a pool from one population, `select` on each."""
    right = POPULATIONS[population]
    truth = np.cumsum(right(FINE)) / np.arange(1, len(FINE) + 1)  # precision of {quantile <= u}
    reach = FINE[truth >= spec.precision]
    generator = np.random.Generator(np.random.Philox(seed))
    found = []
    for _ in range(splits):
        judged_u, pool_u = generator.random(calibration), generator.random(pool)
        judged = Judgements(mean_nll(judged_u), generator.random(calibration) < right(judged_u))
        pool_right = generator.random(pool) < right(pool_u)
        plain = np.ones(pool)
        threshold = select(Scores(mean_nll(pool_u), plain, plain.astype(str), plain < 0, judged), spec)
        if threshold is not None:
            kept = mean_nll(pool_u) <= threshold
            deep = min(len(FINE) - 1, int(math.sqrt(threshold / 2) * len(FINE)))
            found.append((kept.mean(), truth[deep] < spec.precision, kept.any() and pool_right[kept].mean() < spec.precision))
    kept_shares, broken, on_pool = (sum(column) / splits for column in zip(*found, strict=True)) if found else (0.0, 0.0, 0.0)
    oracle = float(reach.max()) if len(reach) else 0.0
    return Row(population, calibration, len(found) / splits, float(broken), float(on_pool), float(kept_shares), oracle)


def mean_nll(quantile: Floats) -> Floats:
    """Any increasing function: the selector sees the order of scores only."""
    return 2 * quantile**2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", type=float, default=0.9)
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--pool", type=int, default=600)
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    spec = RiskControl(precision=args.precision, confidence=args.confidence, fallback="none")
    tables = {}
    for name, select in (("risk_control", certified), ("no multiple-testing control", uncorrected)):
        given = {"pool": args.pool, "splits": args.splits, "spec": spec, "seed": args.seed, "select": select}
        tables[name] = [simulate(population, size, **given) for population in POPULATIONS for size in SIZES]
        print(f"\n{name}: precision {args.precision:g}, confidence {args.confidence:g}; pool {args.pool}, {args.splits} splits")
        print(f"{'population':18} {'calibration':>11} {'certified':>9} {'broken':>7} {'on pool':>7} {'kept':>6} {'oracle':>6}")
        for row in tables[name]:
            rates = f"{row.certified:9.3f} {row.broken:7.3f} {row.broken_on_pool:7.3f} {row.kept:6.3f} {row.oracle:6.3f}"
            print(f"{row.population:18} {row.calibration:11d} {rates}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(args, name) for name in ("precision", "confidence", "pool", "splits", "seed")}
    body = {"asked": asked, "rows": {name: [asdict(row) for row in rows] for name, rows in tables.items()}}
    args.out.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The report: what each arm scored, whether unlabeled data helped and how sure that is, and what was selected.

The only reader of gold answers of unlabeled rows (methods.md A1). Its numbers come from stage outputs alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.stats import binomtest

from worker.semisup.arms import Arm
from worker.semisup.data import Prediction, Report, Sample
from worker.semisup.round import RoundResult
from worker.semisup.task import Task

CALIBRATION_BINS = 5


def write_report(
    task: Task, arms: Sequence[Arm], rounds: Sequence[RoundResult], gold: Mapping[str, str], notes: Sequence[str]
) -> Report:
    level = task.spec.evaluation.confidence
    evolved = next((arm for arm in arms if arm.name == "evolved"), None)
    golds = parsed_gold(task, gold)
    strict = next((arm for arm in arms if arm.name == "labels_only_early"), None)
    comparisons = [compare(evolved, arm, level) for arm in arms if evolved and not arm.name.startswith("evolved")]
    best = evolved or strict or arms[0]
    body: dict[str, Any] = {
        "schema": 1,
        "summary": sentence(next((c for c in comparisons if c["against"] == "labels_only_early"), None)),
        "task": {
            "answer": task.answers.kind,
            "labels": list(task.answers.labels),
            "labeled": len(task.split.labeled),
            "unlabeled": len(task.split.unlabeled),
            "held_out": len(task.split.held_out),
        },
        "arms": [arm_row(arm, level) for arm in arms],
        "comparisons": comparisons,
        "rounds": [round_row(task, result, golds) for result in rounds],
        "calibration": {"held_out": calibration([(p.mean_nll, p.correct) for p in best.predictions])},
        "tokens": tokens(arms, rounds),
        "recipes": recipes(task, rounds),
        "profile": task.spec.profile,
        "seed": task.spec.seed,
        "environment": task.lab.environment,
        "notes": list(notes),
    }
    if golds:
        last = [s for result in rounds for s in result.selection.samples if s.round == len(rounds) or s.verdict == "selected"]
        pairs = [(s.mean_nll, right(task, s, golds)) for s in last if s.query_id in golds and s.pseudo_label is not None]
        body["calibration"]["unlabeled"] = calibration(pairs)
    return Report(body)


def arm_row(arm: Arm, level: float) -> dict[str, Any]:
    """Accuracy with its Wilson interval; an answer that could not be parsed counts as wrong."""
    n, hits = len(arm.predictions), sum(p.correct for p in arm.predictions)
    interval = binomtest(hits, n).proportion_ci(level, method="wilson")
    return {
        "name": arm.name,
        "title": arm.title,
        "accuracy": hits / n,
        "interval": [float(interval.low), float(interval.high)],
        "n": n,
        "unparsed": sum(p.answer is None for p in arm.predictions),
        "neighbours_shown": arm.neighbours,
        "train_steps": arm.adapter.steps if arm.adapter else 0,
        "early_stop": {
            "epochs": arm.stop.epochs,
            "horizon": arm.stop.horizon,
            "tried": arm.stop.tried,
            "dev": arm.stop.dev_size,
        }
        if arm.stop
        else None,
    }


def compare(evolved: Arm | None, other: Arm, level: float) -> dict[str, Any]:
    """Evolved minus `other` on the same rows: paired difference, normal interval of its mean, exact McNemar p."""
    assert evolved is not None
    ours, theirs = _correct(evolved.predictions), _correct(other.predictions)
    difference = ours - theirs  # (n,), each -1, 0 or 1
    n, mean = len(difference), float(difference.mean())
    half = NormalDist().inv_cdf(0.5 + level / 2) * float(difference.std(ddof=1)) / n**0.5 if n > 1 else 1.0
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "against": other.name,
        "difference": mean,
        "interval": [mean - half, mean + half],
        "half_width": half,
        "won": won,
        "lost": lost,
        "p_mcnemar": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }


def sentence(comparison: Mapping[str, Any] | None) -> str:
    """What the comparison with the early-stopped labels-only arm says, in words."""
    if comparison is None:
        return "No unlabeled data, or no labels-only arm to compare with: nothing is claimed."
    points, half = 100 * comparison["difference"], 100 * comparison["half_width"]
    if points > half:
        return f"Unlabeled data helped by {points:.1f} ± {half:.1f} points over labels-only (early-stopped)."
    if points < -half:
        return f"Evolved was worse than labels-only (early-stopped) by {-points:.1f} ± {half:.1f} points."
    return f"No difference to labels-only (early-stopped) could be shown: {points:+.1f} ± {half:.1f} points."


def round_row(task: Task, result: RoundResult, golds: Mapping[str, str]) -> dict[str, Any]:
    samples, chosen = result.selection.samples, result.selection.chosen()
    row: dict[str, Any] = {
        "round": result.number,
        "pool": len(samples),
        "consistency_rate": result.consistent / len(samples) if samples else None,
        "resolved_by": _counts(s.resolved_by for s in samples),
        "selected": result.selection.selected,
        "rejected": result.selection.rejected,
        "reasons": dict(result.selection.reasons),
        "threshold_mean_nll": result.selection.threshold,
        "trained_on": len(result.trained_on),
        "accuracy": float(_correct(result.predictions).mean()),
        "class_shares": class_shares(task, samples, chosen),
    }
    known = [s for s in samples if s.query_id in golds]
    if known:
        row["pseudo_label_accuracy"] = {
            name: _share(task, part, golds)
            for name, part in {
                "all": known,
                "selected": [s for s in known if s.verdict == "selected"],
                "rejected": [s for s in known if s.verdict == "rejected"],
                "consistent": [s for s in known if s.resolved_by in ("agreement", "single")],
                "resolved": [s for s in known if s.resolved_by not in ("agreement", "single")],
            }.items()
        }
    return row


def class_shares(task: Task, samples: Sequence[Sample], chosen: Sequence[Sample]) -> dict[str, Any] | None:
    """Shares of each answer among labels, pseudo-labels and what was selected; None for open answers."""
    if task.answers.kind not in ("label", "choice"):
        return None
    tables: dict[str, Counter[str]] = {
        "labeled": Counter(e.answer for e in task.split.labeled),
        "pseudo_labels": Counter(s.pseudo_label for s in samples if s.pseudo_label is not None),
        "selected": Counter(s.pseudo_label for s in chosen if s.pseudo_label is not None),
    }
    names = sorted({name for table in tables.values() for name in table})
    return {kind: {name: table[name] / max(1, table.total()) for name in names} for kind, table in tables.items()}


def calibration(pairs: Sequence[tuple[float, bool]]) -> list[dict[str, Any]]:
    """mean_nll against correctness in bins of equal count, most confident first."""
    ordered = sorted(pairs)
    bins = [part for part in np.array_split(np.arange(len(ordered)), CALIBRATION_BINS) if len(part)]
    return [
        {
            "mean_nll_from": ordered[part[0]][0],
            "mean_nll_to": ordered[part[-1]][0],
            "n": len(part),
            "accuracy": sum(ordered[i][1] for i in part) / len(part),
        }
        for part in bins
    ]


def tokens(arms: Sequence[Arm], rounds: Sequence[RoundResult]) -> dict[str, int]:
    """Tokens each stage generated (votes, decisions, answers) or trained on (response tokens that carried loss)."""
    out: dict[str, int] = {}
    for result in rounds:
        name = f"round-{result.number}"
        samples = result.selection.samples
        if result.warm and result.number == 1:
            out[f"{name}/warmup"] = result.warm.trained_tokens
        out[f"{name}/propagate"] = sum(vote.tokens for s in samples for vote in s.votes)
        out[f"{name}/justify"] = sum(s.justification.tokens for s in samples if s.justification)
        out[f"{name}/evolve"] = result.evolved.trained_tokens if result.evolved else 0
        out[f"{name}/evaluate"] = sum(p.tokens for p in result.predictions)
    for arm in arms:
        if arm.name.startswith("labels_only") and arm.adapter and not arm.neighbours:
            out[f"labels-only/{arm.name.removeprefix('labels_only_')}"] = arm.adapter.trained_tokens
        if arm.name != "evolved":
            stage = arm.name.replace("_in_context", "-in-context")
            out[f"arms/{stage}"] = sum(p.tokens for p in arm.predictions)
    return out


def recipes(task: Task, rounds: Sequence[RoundResult]) -> dict[str, Any]:
    """What "auto" became."""
    stages = {"warmup": len(task.split.labeled)}
    if rounds:
        stages["evolve"] = len(task.split.labeled) + len(rounds[-1].trained_on)
    found = {stage: task.recipe(stage, count) for stage, count in stages.items()}  # type: ignore[arg-type]
    return {
        stage: {"epochs": r.n_epochs, "batch_size": r.batch_size, "learning_rate": r.learning_rate, "format": r.format}
        | {"trainable": r.trainable}
        for stage, r in found.items()
    } | {"max_new_tokens": task.max_new_tokens}


def parsed_gold(task: Task, gold: Mapping[str, str]) -> dict[str, str]:
    """Gold answers in canonical form, where they can be parsed."""
    queries = {query.id: query for query in task.split.unlabeled}
    parsed = {i: task.answers.parse(text, queries[i]) for i, text in gold.items() if i in queries}
    return {i: answer for i, answer in parsed.items() if answer is not None}


def right(task: Task, sample: Sample, golds: Mapping[str, str]) -> bool:
    return task.answers.same(sample.pseudo_label, golds[sample.query_id])


def _share(task: Task, samples: Sequence[Sample], golds: Mapping[str, str]) -> dict[str, Any]:
    hits = sum(right(task, s, golds) for s in samples)
    return {"n": len(samples), "accuracy": hits / len(samples) if samples else None}


def _correct(predictions: Sequence[Prediction]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([p.correct for p in predictions], np.float64)


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))

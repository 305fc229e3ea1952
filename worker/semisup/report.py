"""The report: what each arm scored, whether unlabeled data helped and how sure that is, and what was selected.

The only reader of gold answers of unlabeled rows (methods.md A1). Its numbers come from stage outputs alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from worker.semisup.arms import Arm
from worker.semisup.data import Prediction, Report, Sample, unanimous
from worker.semisup.guard import Decision, Source, summary
from worker.semisup.intervals import accuracy_interval, paired
from worker.semisup.reliability import bins_of, reliability
from worker.semisup.rounds import Rounds
from worker.semisup.splits import first_alike
from worker.semisup.stages.calibrate import calibration_folds, teaching
from worker.semisup.task import Task

SCHEMA = 2
CALIBRATION_BINS = 5


@dataclass(frozen=True)
class Findings:
    """What the job found out beside its arms and rounds. `controls`: labels-only's answers on the validation rows."""

    source: Source
    decision: Decision
    controls: tuple[Prediction, ...]
    shared: Mapping[str, int]  # rows that two files have in common
    notes: tuple[str, ...]


def write_report(task: Task, arms: Sequence[Arm], rounds: Rounds | None, gold: Mapping[str, str], found: Findings) -> Report:
    level = task.spec.evaluation.confidence
    evolved = next((arm for arm in arms if arm.name == "evolved"), None)
    golds = parsed_gold(task, gold)
    strict = next((arm for arm in arms if arm.name == "labels_only_early"), None)
    alike = first_alike(task.split.held_out)
    comparisons = [compare(evolved, arm, level, alike) for arm in arms if evolved and not arm.name.startswith("evolved")]
    against = next((c for c in comparisons if c["against"] == "labels_only_early"), None)
    best = evolved or strict or arms[0]
    made = rounds.made if rounds else ()
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "summary": summary(found.decision, against, len(task.split.held_out), level, found.source),
        "result": found.decision.result,
        "guard": guard_row(task, found),
        "task": {
            "answer": task.answers.kind,
            "labels": list(task.answers.labels),
            "labeled": len(task.split.labeled),
            "unlabeled": len(task.split.unlabeled),
            "validation": len(task.split.validation),
            "held_out": len(task.split.held_out),
            "unseen_labels": unseen_labels(task),
        },
        "shared_rows": dict(found.shared),
        "arms": [arm_row(arm, level, alike) for arm in arms],
        "comparisons": comparisons,
        "stopping": stopping(task, rounds) if rounds else None,
        "rounds": [round_row(task, rounds, index, golds) for index in range(len(made))] if rounds else [],
        "calibration": {"held_out": calibration([(p.mean_nll, p.correct) for p in best.predictions])},
        "tokens": tokens(arms, rounds, found.controls),
        "recipes": recipes(task, rounds),
        "profile": task.spec.profile,
        "seed": task.spec.seed,
        "environment": task.lab.environment,
        "notes": list(found.notes),
    }
    if golds:
        last = {s.query_id: s for result in made for s in result.selection.samples}  # what was last said of each row
        known = [s for s in last.values() if s.query_id in golds and s.pseudo_label is not None]
        pairs = zip((s.mean_nll for s in known), rights(task, known, golds), strict=True)
        body["calibration"]["unlabeled"] = calibration(list(pairs))
    return Report(body)


def guard_row(task: Task, found: Findings) -> dict[str, Any]:
    """What was compared on the validation rows, and why the result is what it is."""
    decision = asdict(found.decision)
    paired_numbers = decision.pop("paired") or dict.fromkeys(
        ("difference", "interval", "half_width", "won", "lost", "p_mcnemar")
    )
    return {"keep": task.spec.evaluation.keep, **decision, **paired_numbers, "source": asdict(found.source)}


def unseen_labels(task: Task) -> int:
    """Reported rows whose label no labeled row has: nobody can get them right."""
    known = set(task.answers.labels)
    return sum(row.answer not in known for row in task.split.held_out) if task.answers.kind == "label" else 0


def arm_row(arm: Arm, level: float, alike: Sequence[int]) -> dict[str, Any]:
    """Accuracy with its Wilson interval; an answer that could not be parsed counts as wrong."""
    correct = [p.correct for p in arm.predictions]
    return {
        "name": arm.name,
        "title": arm.title,
        "accuracy": sum(correct) / len(correct),
        "interval": list(accuracy_interval(correct, level, alike)),
        "n": len(correct),
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


def compare(evolved: Arm, other: Arm, level: float, alike: Sequence[int]) -> dict[str, Any]:
    """Evolved minus `other` on the reported rows."""
    ours, theirs = ([p.correct for p in arm.predictions] for arm in (evolved, other))
    return {"against": other.name, **paired(ours, theirs, level, alike)}


def stopping(task: Task, rounds: Rounds) -> dict[str, Any]:
    """Why the rounds ended, and which of them was taken."""
    spec, run, taken = task.spec, len(rounds.made), rounds.result.number
    if not rounds.checked:
        because = "no validation rows" if spec.rounds > 1 or not task.split.validation else "one round, and no guard"
        note = f"{run} of {spec.rounds} rounds run, the last one taken ({because})."
    else:
        won = f"round {taken} is best on {len(rounds.checked)} validation rows and was taken"
        why = f"; {spec.patience} in a row brought no more than min_gain {spec.min_gain:g}" if rounds.ended == "no_gain" else ""
        note = f"{run} of {spec.rounds} rounds run{why}; {won}."
    return {
        "rounds": spec.rounds,
        "run": run,
        "taken": taken,
        "ended": rounds.ended,
        "min_gain": spec.min_gain,
        "patience": spec.patience,
        "note": note,
    }


def round_row(task: Task, rounds: Rounds, index: int, golds: Mapping[str, str]) -> dict[str, Any]:
    result, validated = rounds.made[index], rounds.validated[index]
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
        "guarantee": result.selection.guarantee,
        "note": result.selection.note,
        "trained_on": len(result.trained_on),
        "accuracy": float(np.mean([p.correct for p in result.predictions])),
        "validation": _hits(p.correct for p in validated) if validated else None,
        "taken": index == rounds.taken,
        "class_shares": class_shares(task, samples, chosen),
        **trust(task, rounds, index, golds),
    }
    known = [s for s in samples if s.query_id in golds]
    if known:
        row["pseudo_label_accuracy"] = {
            name: _share(task, part, golds)
            for name, part in {
                "all": known,
                "selected": [s for s in known if s.verdict == "selected"],
                "rejected": [s for s in known if s.verdict == "rejected"],
                "consistent": [s for s in known if unanimous(s)],
                "resolved": [s for s in known if not unanimous(s)],
            }.items()
        }
    return row


def trust(task: Task, rounds: Rounds, index: int, golds: Mapping[str, str]) -> dict[str, Any]:
    """`reliability` of a round's pseudo-labels as labeled rows tell it, with the truth beside it where golds are there."""
    result = rounds.made[index]
    if result.calibration is None:
        off = "not measured: no labeled rows were judged by networks that had not seen them"
        return {"reliability": None, "reliability_note": f"The reliability of this round's pseudo-labels was {off}."}
    measured = next(earlier.number for earlier in rounds.made if earlier.calibration == result.calibration)
    level = task.spec.evaluation.confidence
    row = reliability(result.calibration, result.selection, task.spec.selection, level) | {"measured_in_round": measured}
    share, bound = row["selected"]["precision"], row["selected"]["lower"]
    note = "No judged row would have been selected, so the precision of the selection is unknown."
    if share is not None:
        certified = (result.selection.guarantee or {}).get(
            "certified"
        )  # the cut was chosen on these rows: no plain bound holds
        much = (
            "what is promised is in the guarantee"
            if certified
            else f"with {100 * level:g} % confidence at least {100 * bound:.1f} %"
        )
        note = f"Of the {row['selected']['n']} judged rows that the same cut selects, {100 * share:.1f} % are right: {much}."
    if measured != result.number:
        note += f" Measured with the networks of round {measured}: this round's cannot be trained again without each row."
    known = [s for s in result.selection.samples if s.query_id in golds and s.pseudo_label is not None]
    if known:
        parts = {"overall": known, "selected": [s for s in known if s.verdict == "selected"]}
        row["true"] = {name: _share(task, part, golds) for name, part in parts.items()}
    return {"reliability": row, "reliability_note": note}


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
    return [
        {
            "mean_nll_from": part[0][0],
            "mean_nll_to": part[-1][0],
            "n": len(part),
            "accuracy": sum(right for _, right in part) / len(part),
        }
        for part in bins_of(pairs, CALIBRATION_BINS)
    ]


def tokens(arms: Sequence[Arm], rounds: Rounds | None, controls: Sequence[Prediction]) -> dict[str, int]:
    """Tokens each stage generated (votes, decisions, answers) or trained on (response tokens that carried loss)."""
    out: dict[str, int] = {}
    for result, validated in zip(rounds.made, rounds.validated, strict=True) if rounds else ():
        name = f"round-{result.number}"
        samples = result.selection.samples
        if result.warm and result.number == 1:
            out[f"{name}/warmup"] = result.warm.trained_tokens
        if result.calibration and result.number == 1:
            out |= {f"{name}/calibrate/{stage}": count for stage, count in result.calibration.tokens.items()}
        out |= {f"{name}/cross-fit/fold-{n}/evolve": adapter.trained_tokens for n, adapter in enumerate(result.cross_fit)}
        out[f"{name}/propagate"] = sum(vote.tokens for s in samples for vote in s.votes)
        out[f"{name}/justify"] = sum(s.justification.tokens for s in samples if s.justification)
        out[f"{name}/evolve"] = result.evolved.trained_tokens if result.evolved else 0
        out[f"{name}/evaluate"] = sum(p.tokens for p in result.predictions)
        if validated:
            out[f"{name}/validate"] = sum(p.tokens for p in validated)
    if controls:
        out["labels-only/validate"] = sum(p.tokens for p in controls)
    for arm in arms:
        if arm.stop:
            out["labels-only/stop"] = arm.stop.tokens
        if arm.name.startswith("labels_only") and arm.adapter and not arm.neighbours:
            out[f"labels-only/{arm.name.removeprefix('labels_only_')}"] = arm.adapter.trained_tokens
        if arm.name != "evolved":
            stage = arm.name.replace("_in_context", "-in-context")
            out[f"arms/{stage}"] = sum(p.tokens for p in arm.predictions)
    return out


def recipes(task: Task, rounds: Rounds | None) -> dict[str, Any]:
    """What "auto" became."""
    labeled = len(task.split.labeled)
    stages = {"warmup": len(teaching(task, calibration_folds(task)).split.labeled) if rounds else labeled}
    if rounds:
        with_labels = labeled if task.spec.evolve.data == "labeled+selected" else 0
        stages["evolve"] = with_labels + len(rounds.result.trained_on)
    found = {stage: task.recipe(stage, count) for stage, count in stages.items()}  # type: ignore[arg-type]
    return {
        stage: {"epochs": r.n_epochs, "batch_size": r.batch_size, "learning_rate": r.learning_rate, "format": r.format}
        | {"trainable": r.trainable}
        for stage, r in found.items()
    } | {"max_new_tokens": task.max_new_tokens}


def parsed_gold(task: Task, gold: Mapping[str, str]) -> dict[str, str]:
    """Gold answers in canonical form, where they can be parsed."""
    queries = {query.id: query for query in task.split.unlabeled}
    parsed = {i: task.answers.gold(text, queries[i]) for i, text in gold.items() if i in queries}
    return {i: answer for i, answer in parsed.items() if answer is not None}


def rights(task: Task, samples: Sequence[Sample], golds: Mapping[str, str]) -> list[bool]:
    """Whether each sample's pseudo-label is its gold answer, as votes and held-out answers are compared."""
    pairs = [(s.pseudo_label, golds[s.query_id]) for s in samples]
    meaning = task.answers.meaning(task.lab.embed, pairs)
    return [task.answers.same(label, gold, meaning) for label, gold in pairs]


def _share(task: Task, samples: Sequence[Sample], golds: Mapping[str, str]) -> dict[str, Any]:
    hits = sum(rights(task, samples, golds))
    return {"n": len(samples), "accuracy": hits / len(samples) if samples else None}


def _hits(answers: Iterable[bool]) -> dict[str, Any]:
    given = list(answers)
    return {"n": len(given), "right": sum(given), "accuracy": sum(given) / len(given)}


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))

"""Adaptive selection: every candidate gets a verdict and a reason; the selector of the spec decides on those that parsed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.semisup.data import Calibration, Candidate, Neighbours, Query, Sample, Selection, unanimous
from worker.semisup.errors import DataError
from worker.semisup.selectors import SELECTORS
from worker.semisup.selectors.caps import cap_classes, cap_near_duplicates
from worker.semisup.selectors.cut import Cut, Judgements, Scores
from worker.semisup.spec import Caps, SelectionSpec
from worker.semisup.stages.contradict import contradicted

SELECTED = "selected"
NO_ANSWER = "no_answer"  # nothing parsed, or the resolver dropped it
CONTRADICTED, NEAR_DUPLICATE, CLASS_CAP = "contradicted", "near_duplicate", "class_cap"
LOW_PARSE_SHARE = 0.2  # of the generated votes; below it the selection carries a note
EXAMPLES_SHOWN, EXAMPLE_LENGTH = 5, 80  # of what was said instead of an answer; characters
CLASSES_SHOWN = 200  # kept shares of more pseudo-labels than that say nothing

Embed = Callable[[Sequence[str]], NDArray[Any]]  # texts -> (len(texts), d) of unit length


def select(
    candidates: Sequence[Candidate],
    pool: Sequence[Query],
    neighbours: Neighbours,
    spec: SelectionSpec,
    *,
    round_number: int,
    seed: int,
    calibration: Calibration | None = None,
    embed: Embed | None = None,
) -> Selection:
    """The selection in upload order. `embed` is asked for the prompts' embeddings when the near-duplicate cap is on.

    Raises DataError `low_parse_rate` when the first round's votes hold no answer at all. Selecting nothing is no error.
    """
    spoken = parse_note(candidates, round_number)
    place = {query.id: i for i, query in enumerate(pool)}
    ordered = sorted(candidates, key=lambda c: place[c.query_id])
    usable = [c for c in ordered if c.answer is not None]
    scores = Scores(
        mean_nll=np.array([c.mean_nll for c in usable], np.float64),
        agreement=np.array([c.agreement for c in usable], np.float64),
        label=np.array([c.answer for c in usable], np.str_),
        disputed=np.array([not unanimous(c) for c in usable], bool),
        judged=judgements(calibration),
    )
    cut = SELECTORS[spec.strategy](scores, spec, seed)
    verdicts = capped(cut, scores, usable, [pool[place[c.query_id]].question for c in usable], spec.caps, embed)
    reasons: Mapping[str, str] = {c.query_id: NO_ANSWER for c in ordered} | {
        c.query_id: verdict for c, verdict in zip(usable, verdicts, strict=True)
    }
    counts = dict(sorted(Counter(reasons.values()).items()))
    selected = counts.get(SELECTED, 0)
    samples = tuple(_sample(c, pool[place[c.query_id]], neighbours, reasons[c.query_id], round_number) for c in ordered)
    selection = Selection(
        samples=samples, threshold=cut.threshold, selected=selected, rejected=len(ordered) - selected, reasons=counts
    )
    if cut.guarantee is None:
        return replace(selection, note=_sentences(spoken, cut.note, nothing_selected(selection, round_number)))
    promise, caveat = promised(cut.guarantee, calibration, scores, cut.kept, verdicts, round_number)
    notes = _sentences(spoken, cut.note, caveat, nothing_selected(selection, round_number))
    return replace(selection, guarantee=promise, note=notes)


def capped(
    cut: Cut, scores: Scores, usable: Sequence[Candidate], questions: Sequence[str], caps: Caps, embed: Embed | None
) -> list[str]:
    """SELECTED or why not, for each of the n usable candidates: the cut, contradictions, near-duplicates, the class cap."""
    left = cut.kept
    verdicts = np.where(left, SELECTED, cut.reason).astype(object)
    if caps.contradictions == "drop":
        bad = np.array([contradicted(c.votes) for c in usable], bool)
        verdicts[left & bad] = CONTRADICTED
        left = left & ~bad
    if caps.max_near_duplicates is not None and embed is not None and left.any():
        units = embed([question for question, keep in zip(questions, left, strict=True) if keep])
        fewer = cap_near_duplicates(left, scores.mean_nll, units, caps.max_near_duplicates, caps.near_duplicate_similarity)
        verdicts[left & ~fewer] = NEAR_DUPLICATE
        left = fewer
    if caps.max_class_share is not None:
        verdicts[left & ~cap_classes(left, scores.mean_nll, scores.label, caps.max_class_share)] = CLASS_CAP
    return [str(verdict) for verdict in verdicts]


def judgements(calibration: Calibration | None) -> Judgements | None:
    """Calibration rows as a selector sees them. A row without an answer could never have been selected: it is no row."""
    if calibration is None:
        return None
    rows = [row for row in calibration.judged if row.answer is not None]
    return Judgements(np.array([r.mean_nll for r in rows], np.float64), np.array([r.correct for r in rows], bool))


def promised(
    guarantee: Mapping[str, Any],
    calibration: Calibration | None,
    scores: Scores,
    kept: NDArray[np.bool_],
    verdicts: Sequence[str],
    round_number: int,
) -> tuple[dict[str, Any], str | None]:
    """The guarantee with what the selector cannot know: where its rows came from, and what was done after the cut.

    `exact` is true where the theorem's assumption holds: calibration rows drawn like the pool and scored by the same network.
    """
    names = np.unique(scores.label)
    shares = {str(n): float(kept[scores.label == n].mean()) for n in names} if len(names) <= CLASSES_SHOWN else None
    dropped = int(kept.sum()) - sum(verdict == SELECTED for verdict in verdicts)
    mode = calibration.mode if calibration else None
    whole = {
        **guarantee,
        "mode": mode,
        "exact": bool(guarantee["certified"] and mode == "held_out" and round_number == 1),
        "kept_share_by_class": shares,
        "dropped_by_caps": dropped,
    }
    if not guarantee["certified"] or whole["exact"]:
        return whole, None
    caveat = (
        f"Round {round_number}'s promise is approximate: the calibration rows were answered in round 1, by another network, "
        "and were not drawn like what earlier rounds left."
        if round_number > 1
        else "The promise is approximate: cross-fitted calibration rows were answered by networks trained on fewer labels."
    )
    return whole, caveat


def parse_note(candidates: Sequence[Candidate], round_number: int) -> str | None:
    """A sentence when few of the generated votes held an answer. Raises DataError when the first round's hold none."""
    votes = [vote for candidate in candidates for vote in candidate.votes]
    # What was generated: neither a view's vote (no tokens, an answer all the same) nor an engine's failure to say anything.
    said = [vote for vote in votes if vote.error is None and (vote.tokens > 0 or vote.answer is None)]
    silent = [vote for vote in said if vote.answer is None]
    if not said or len(silent) <= (1 - LOW_PARSE_SHARE) * len(said):
        return None
    shown = list(dict.fromkeys(_shortened(vote.response) for vote in silent))[:EXAMPLES_SHOWN]
    examples = "; ".join(repr(text) for text in shown)
    if round_number == 1 and all(vote.answer is None for vote in votes):
        raise DataError(
            f"None of {len(votes)} responses to {len(candidates)} unlabeled rows holds an answer that can be read, such as: "
            f"{examples}.",
            code="low_parse_rate",
            hint="The language model has not learned the form of an answer: switch propagation.in_weight on or train it longer "
            "(warmup.n_epochs), raise propagation.max_new_tokens if answers are cut off, or correct the spec's answer.",
        )
    return f"Only {len(said) - len(silent)} of {len(said)} generated responses hold an answer; others said: {examples}."


def nothing_selected(selection: Selection, round_number: int) -> str | None:
    if selection.selected:
        return None
    if not selection.samples:
        return f"Round {round_number} had no rows left to label: earlier rounds selected them all."
    why = ", ".join(f"{reason}: {count}" for reason, count in selection.reasons.items())
    return f"Round {round_number} selected none of {len(selection.samples)} rows ({why}): it adds nothing to train on."


def _shortened(text: str) -> str:
    return text if len(text) <= EXAMPLE_LENGTH else text[: EXAMPLE_LENGTH - 1] + "…"


def _sentences(*parts: str | None) -> str | None:
    return " ".join(part for part in parts if part) or None


def _sample(candidate: Candidate, query: Query, neighbours: Neighbours, reason: str, round_number: int) -> Sample:
    ids, similarity = neighbours.ids.get(query.id, ()), neighbours.similarity.get(query.id, ())
    return Sample(
        query_id=query.id,
        round=round_number,
        prompt=query.question,
        pseudo_response=candidate.response,
        pseudo_label=candidate.answer,
        mean_nll=candidate.mean_nll,
        agreement=candidate.agreement,
        resolved_by=candidate.resolved_by,
        verdict="selected" if reason == SELECTED else "rejected",
        reason=reason,
        neighbours=tuple(zip(ids, similarity, strict=True)),
        votes=candidate.votes,
        justification=candidate.justification,
    )

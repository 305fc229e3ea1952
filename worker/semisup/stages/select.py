"""Adaptive selection: every candidate gets a verdict and a reason; the selector of the spec decides on those that parsed."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from worker.semisup.data import Candidate, Neighbours, Query, Sample, Selection
from worker.semisup.selectors import SELECTORS
from worker.semisup.selectors.cut import Scores
from worker.semisup.spec import SelectionSpec

SELECTED = "selected"
NO_ANSWER = "no_answer"  # nothing parsed, or the resolver dropped it


def select(
    candidates: Sequence[Candidate],
    pool: Sequence[Query],
    neighbours: Neighbours,
    spec: SelectionSpec,
    *,
    round_number: int,
    seed: int,
) -> Selection:
    """The selection in upload order."""
    place = {query.id: i for i, query in enumerate(pool)}
    ordered = sorted(candidates, key=lambda c: place[c.query_id])
    usable = [c for c in ordered if c.answer is not None]
    scores = Scores(
        mean_nll=np.array([c.mean_nll for c in usable], np.float64),
        agreement=np.array([c.agreement for c in usable], np.float64),
        label=np.array([c.answer for c in usable], np.str_),
        disputed=np.array([c.resolved_by not in ("agreement", "single") for c in usable], bool),
    )
    cut = SELECTORS[spec.strategy](scores, spec, seed)
    kept = {c.query_id for c, keep in zip(usable, cut.kept, strict=True) if keep}
    reasons: Mapping[str, str] = {
        c.query_id: SELECTED if c.query_id in kept else NO_ANSWER if c.answer is None else cut.reason for c in ordered
    }
    samples = tuple(_sample(c, pool[place[c.query_id]], neighbours, reasons[c.query_id], round_number) for c in ordered)
    return Selection(
        samples=samples,
        threshold=cut.threshold,
        selected=len(kept),
        rejected=len(ordered) - len(kept),
        reasons=dict(sorted(Counter(reasons.values()).items())),
    )


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

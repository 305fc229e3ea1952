"""Calibration: labeled rows answered by networks that were not trained on them, settled as the pool of a round is.

`cross_fit`: the labels are cut into stratified folds; each is answered by a warm-up, demonstrations and classifiers of the
others, so that few labels are enough. Its networks see fewer labels than the round's own: what it promises is approximate,
and on the careful side. `held_out`: a share of the labels stays out of warm-up, demonstrations and classifiers of the round
itself; what is measured on it holds exactly for the votes of that round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from worker.semisup.data import Adapter, Ballot, Calibration, Candidate, Example, Judged, Query, Views
from worker.semisup.keep import Keep
from worker.semisup.seeds import derive_seed
from worker.semisup.splits import Folds, first_alike, stratified_folds, stratified_split, systematic_split
from worker.semisup.stages.candidates import pool_all, settle_all, vote
from worker.semisup.stages.neighbours import neighbours_of
from worker.semisup.stages.pool import distributions, fit_weights
from worker.semisup.stages.teachers import Teachers
from worker.semisup.stages.train import own_neighbours, warm_up
from worker.semisup.stages.views import class_names, views_of
from worker.semisup.task import Task

Voted = tuple[Sequence[Example], Sequence[Ballot]]  # labeled rows and the votes on them, in order


def calibration_folds(task: Task) -> Folds:
    """Indices of the labeled rows of each fold: none when calibration is off, one when a share is held out.

    Rows that a collaborator answers from memory (`task.learned`) are in no fold; where all are, there is none.
    """
    spec, labeled = task.spec.calibration, task.split.labeled
    seed = derive_seed(task.spec.seed, "calibration")
    if spec.mode == "off":
        return ()
    if spec.mode == "held_out":
        drawn = {e.id for e in stratified_split([e for e in labeled if e.id not in task.learned], spec.fraction, seed)[1]}
        folds: Folds = (tuple(i for i, e in enumerate(labeled) if e.id in drawn),)
    else:
        folds = stratified_folds(labeled, spec.folds, seed)
    unseen = (tuple(i for i in fold if labeled[i].id not in task.learned) for fold in folds)
    return tuple(fold for fold in unseen if fold)


def teaching(task: Task, folds: Folds) -> Task:
    """The task as warm-up and votes of a round may see it: without the rows that are held out for calibration."""
    return task.taught_without(folds[0]) if folds and task.spec.calibration.mode == "held_out" else task


def views_for(task: Task, taught: Task, folds: Folds, pool: Sequence[Query]) -> Views:
    """What the classifiers among the collaborators say of the pool and of the calibration rows in `folds`."""
    if not task.answers.closed:
        return Views({})
    classes, labeled = class_names(task.answers, task.split.labeled), task.split.labeled
    asked, left_out = [*pool], folds
    if task.spec.calibration.mode == "held_out":  # no row of theirs teaches in the first place
        asked, left_out = [*pool, *(labeled[i].query for fold in folds for i in fold)], ()
    return views_of(task.lab, taught.split.labeled, left_out, asked, classes, task.spec.propagation.active)


@dataclass(frozen=True)
class Answered:
    """Labeled rows with the votes on them; `candidates` are settled here unless the pool settles them. What that took."""

    drawn: Sequence[Example]
    ballots: Sequence[Ballot]
    candidates: Sequence[Candidate]
    tokens: Mapping[str, int]
    notes: tuple[str, ...]


def calibrate(
    task: Task, taught: Task, folds: Folds, warm: Adapter | None, views: Views, keep: Keep, seed: int
) -> Calibration | None:
    """Weights of the pool and judged rows. In held_out mode `warm` and its task `taught` answer; folds have their own."""
    if not folds:
        return None
    mode = task.spec.calibration.mode
    parts = [answer(task, taught, fold, warm, views, keep.within(f"fold-{n}"), seed) for n, fold in enumerate(folds)]
    tokens = {f"fold-{n}/{stage}": count for n, part in enumerate(parts) for stage, count in part.tokens.items()}
    notes = tuple(note for part in parts for note in part.notes)

    def measure() -> Calibration:
        if task.spec.resolve.resolver == "pool":
            weights, judged = _pooled(task, [(part.drawn, part.ballots) for part in parts])
        else:
            weights, judged = {}, _judged(task, [(part.drawn, part.candidates) for part in parts])
        return Calibration(mode, len(folds), judged, weights, tokens, notes)  # type: ignore[arg-type]

    return keep("weights", measure)


def answer(
    task: Task, taught: Task, fold: Sequence[int], warm: Adapter | None, views: Views, keep: Keep, seed: int
) -> Answered:
    """One fold's rows answered by a network, demonstrations and classifiers that have not seen them."""
    drawn = [task.split.labeled[i] for i in fold]
    queries = [example.query for example in drawn]
    own = None
    if task.spec.calibration.mode == "cross_fit":
        taught = task.taught_without(fold)
        warm = own = keep("warmup", partial(_fold_warm_up, taught)) if task.spec.propagation.in_weight else None
    count, teachers = task.spec.propagation.neighbours, Teachers((warm,))
    near = keep("neighbours", lambda: neighbours_of(task.lab, queries, taught.split.labeled, count))
    ballots = keep.map("propagate", queries, lambda part: vote(taught, teachers, part, near, views, seed))
    tokens = {"warmup": own.trained_tokens} if own else {}
    tokens["propagate"] = sum(vote.tokens for ballot in ballots for vote in ballot.votes)
    candidates: tuple[Candidate, ...] = ()
    if task.spec.resolve.resolver != "pool":
        candidates = settle_all(taught, teachers, queries, ballots, {}, keep, seed)
        tokens["justify"] = sum(c.justification.tokens for c in candidates if c.justification)
    return Answered(drawn, ballots, candidates, tokens, own.notes if own else ())


def _fold_warm_up(task: Task) -> Adapter:
    """From the base LM, also where the round goes on from an earlier adapter: that one may have learned the fold's own rows."""
    return warm_up(task, own_neighbours(task))


def _pooled(task: Task, parts: Sequence[Voted]) -> tuple[Mapping[str, float], tuple[Judged, ...]]:
    """Weights from all calibration rows; each row is judged with weights that did not see its own fold.

    In held_out mode half of the rows of each answer give the weights and the others are judged, so that the judged rows are
    untouched.
    """
    if task.spec.calibration.mode == "held_out":
        drawn, ballots = parts[0]
        place = {example.id: i for i, example in enumerate(drawn)}
        halves = systematic_split(drawn, 0.5, derive_seed(task.spec.seed, "calibration", "halves"))
        weighing, judging = [(half, [ballots[place[example.id]] for example in half]) for half in halves]
        weights = _weights(task, [weighing])
        tried: list[tuple[Voted, Mapping[str, float]]] = [(judging, weights)]
    else:
        weights = _weights(task, parts)
        tried = [(part, _weights(task, [other for other in parts if other is not part])) for part in parts]
    judged = [(drawn, pool_all(task, [e.query for e in drawn], ballots, own)) for (drawn, ballots), own in tried]
    return weights, _judged(task, judged)


def _weights(task: Task, parts: Sequence[Voted]) -> Mapping[str, float]:
    ballots = [ballot for _, part in parts for ballot in part]
    names = [collaborator.name for collaborator in task.spec.propagation.active]
    if not ballots:
        return dict.fromkeys(names, 1.0 / len(names))
    classes = class_names(task.answers, task.split.labeled)
    truth = [classes.index(example.answer) for drawn, _ in parts for example in drawn]
    return dict(zip(names, fit_weights(distributions(ballots, classes), truth), strict=True))


def _judged(task: Task, parts: Sequence[tuple[Sequence[Example], Sequence[Candidate]]]) -> tuple[Judged, ...]:
    """Rows that ask the same are one trial, whatever their number: bounds count trials, and a copy shows nothing new."""
    pairs = []
    for fold, (drawn, made) in enumerate(parts):
        found = {candidate.query_id: candidate for candidate in made}
        once = [drawn[i] for i in dict.fromkeys(first_alike(drawn))]
        pairs += [(fold, example, found[example.id]) for example in once]
    meaning = task.answers.meaning(task.lab.embed, [(c.answer, e.answer) for _, e, c in pairs])
    return tuple(
        Judged(e.id, fold, c.answer, c.mean_nll, c.agreement, task.answers.same(c.answer, e.answer, meaning))
        for fold, e, c in pairs
    )

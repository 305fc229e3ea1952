"""One round of SemiEvol (arXiv 2410.14745), top to bottom: propagate in weight and in context, agree, select, evolve.

Every line is a stage that `keep` makes once; `keep.map` lines are cut into chunks that other machines may take.
"""

from dataclasses import dataclass

from worker.semisup.data import (
    Adapter,
    Calibration,
    Neighbours,
    Prediction,
    Sample,
    Selection,
    unanimous,
)
from worker.semisup.keep import Keep
from worker.semisup.seeds import derive_seed
from worker.semisup.stages.calibrate import calibrate, calibration_folds, teaching, views_for
from worker.semisup.stages.candidates import settle_all, vote
from worker.semisup.stages.evaluate import evaluate
from worker.semisup.stages.neighbours import neighbours_of
from worker.semisup.stages.select import select
from worker.semisup.stages.teachers import Teachers, cross_fitted
from worker.semisup.stages.train import evolve, own_neighbours, training_set, warm_up
from worker.semisup.task import Task


@dataclass(frozen=True)
class RoundResult:
    number: int
    warm: Adapter | None
    evolved: Adapter | None
    neighbours: Neighbours  # of the labeled examples and of this round's pool
    consistent: int  # queries on which all collaborators agreed
    selection: Selection
    trained_on: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]
    calibration: Calibration | None = None
    cross_fit: tuple[Adapter, ...] = ()  # a later round's teachers, where it answered rows again


def run_round(task: Task, number: int, before: RoundResult | None, keep: Keep) -> RoundResult:
    """Round `number`. Later rounds infer with the adapter evolved `before` on what was not selected yet.

    With `relabel` they answer every row again, each by a training like that one which has not seen the row.
    """
    spec, lab, split, seed = task.spec, task.lab, task.split, derive_seed(task.spec.seed, "round", number)
    earlier = before.trained_on if before and not spec.evolve.relabel else ()
    taken = {s.query_id for s in earlier}
    pool = [q for q in split.unlabeled if q.id not in taken]
    folds = calibration_folds(task)
    taught = teaching(task, folds)

    shown = keep("own-neighbours", lambda: own_neighbours(task))
    if before or not spec.propagation.in_weight:
        warm = before.warm if before else None
    else:
        warm = keep("warmup", lambda: warm_up(taught, shown if taught is task else own_neighbours(taught), task.start))
    teacher = before.evolved if before else warm
    start = warm if spec.evolve.init == "warmup" else None
    teachers = Teachers((teacher,))
    if before and before.trained_on and spec.evolve.relabel:
        teachers = cross_fitted(task, before.trained_on, teachers, start, joined(shown, before.neighbours), keep, seed)
    neighbours = keep("neighbours", lambda: neighbours_of(lab, pool, taught.split.labeled, spec.propagation.neighbours))
    # To calibrate later teachers would take a training more for every fold of the labels: the first round's measure stands.
    views = keep("views", lambda: views_for(task, taught, () if before else folds, pool))
    inside = keep.within("calibrate")
    calibration = before.calibration if before else calibrate(task, taught, folds, warm, views, inside, seed)
    weights = calibration.weights if calibration else {}
    ballots = keep.map("propagate", pool, lambda part: vote(taught, teachers, part, neighbours, views, seed))
    candidates = settle_all(taught, teachers, pool, ballots, weights, keep, seed)
    selection = keep(
        "select",
        lambda: select(
            candidates,
            pool,
            neighbours,
            spec.selection,
            round_number=number,
            seed=seed,
            calibration=calibration,
            embed=lab.embed,
        ),
    )
    trained_on = training_set(selection, earlier)
    known = joined(shown, neighbours, before.neighbours if before else None)
    labels_alone = teacher is None and spec.evolve.data == "labeled+selected"  # nothing selected, but something to train on
    trains = bool(trained_on) or labels_alone
    evolved = keep("evolve", lambda: evolve(task, start, trained_on, split.unlabeled, known, seed)) if trains else teacher
    predictions = keep.map("evaluate", split.held_out, lambda part: evaluate(task, evolved, part, None))
    consistent = sum(unanimous(candidate) for candidate in candidates)
    return RoundResult(
        number, warm, evolved, known, consistent, selection, trained_on, predictions, calibration, teachers.cross_fit
    )


def joined(*parts: Neighbours | None) -> Neighbours:
    """Several neighbour tables as one; ids of different files never collide."""
    found = [part for part in parts if part]
    return Neighbours(
        {key: ids for part in found for key, ids in part.ids.items()},
        {key: row for part in found for key, row in part.similarity.items()},
    )

"""One round of SemiEvol (arXiv 2410.14745), top to bottom: propagate in weight and in context, agree, select, evolve.

Every line is a stage that `keep` makes once; `keep.map` lines are cut into chunks that other machines may take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.semisup.data import Adapter, Ballot, Candidate, Neighbours, Prediction, Query, Sample, Selection
from worker.semisup.keep import Keep
from worker.semisup.seeds import derive_seed
from worker.semisup.stages.agree import VOTE_RESOLVERS, agree, justify
from worker.semisup.stages.evaluate import evaluate
from worker.semisup.stages.neighbours import neighbours_of
from worker.semisup.stages.propagate import propagate
from worker.semisup.stages.select import select
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


def run_round(task: Task, number: int, before: RoundResult | None, keep: Keep) -> RoundResult:
    """Round `number`. Later rounds infer with the adapter evolved `before` and work on what it did not select."""
    spec, lab, split, seed = task.spec, task.lab, task.split, derive_seed(task.spec.seed, "round", number)
    taken = {s.query_id for s in before.trained_on} if before else set()
    pool = [q for q in split.unlabeled if q.id not in taken]
    earlier = before.trained_on if before else ()

    shown = keep("own-neighbours", lambda: own_neighbours(task))
    warm = before.warm if before else keep("warmup", lambda: warm_up(task, shown)) if spec.propagation.in_weight else None
    teacher = before.evolved if before else warm
    neighbours = keep("neighbours", lambda: neighbours_of(lab, pool, split.labeled, spec.propagation.neighbours))
    ballots = keep.map("propagate", pool, lambda part: vote(task, teacher, part, neighbours, seed))
    agreed = keep("agree", lambda: agree(ballots, task.answers, spec.propagation.confidence))
    resolved = keep.map("justify", agreed.disputed, lambda part: resolve(task, teacher, part, seed))
    selection = keep(
        "select",
        lambda: select((*agreed.settled, *resolved), pool, neighbours, spec.selection, round_number=number, seed=seed),
    )
    trained_on = training_set(selection, earlier)
    known = joined(shown, neighbours, before.neighbours if before else None)
    start = warm if spec.evolve.init == "warmup" else None
    evolved = keep("evolve", lambda: evolve(task, start, trained_on, split.unlabeled, known, seed)) if trained_on else teacher
    predictions = keep.map("evaluate", split.held_out, lambda part: evaluate(task, evolved, part, None))
    return RoundResult(number, warm, evolved, known, len(agreed.settled), selection, trained_on, predictions)


def vote(task: Task, teacher: Adapter | None, part: Sequence[Query], neighbours: Neighbours, seed: int) -> list[Ballot]:
    return propagate(
        task.lab,
        teacher,
        part,
        task.labeled,
        neighbours,
        task.answers,
        task.spec.propagation,
        system=task.spec.system_prompt,
        max_length=task.max_length,
        max_new_tokens=task.max_new_tokens,
        seed=seed,
    )


def resolve(task: Task, teacher: Adapter | None, part: Sequence[Ballot], seed: int) -> list[Candidate]:
    """What the spec does with disputed queries: ask the LM once more, or count votes."""
    if task.spec.resolve.resolver in VOTE_RESOLVERS:
        settle = VOTE_RESOLVERS[task.spec.resolve.resolver]
        return [settle(ballot, task.answers, task.spec.propagation.confidence) for ballot in part]
    return justify(
        task.lab,
        teacher,
        part,
        {query.id: query for query in task.split.unlabeled},
        task.answers,
        system=task.spec.system_prompt,
        max_length=task.justify_length,
        max_new_tokens=task.justify_tokens,
        seed=seed,
    )


def joined(*parts: Neighbours | None) -> Neighbours:
    """Several neighbour tables as one; ids of different files never collide."""
    found = [part for part in parts if part]
    return Neighbours(
        {key: ids for part in found for key, ids in part.ids.items()},
        {key: row for part in found for key, row in part.similarity.items()},
    )

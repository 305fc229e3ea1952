"""From unlabeled rows to candidates: every collaborator votes, then agreement, a resolver or the pool settles each row.

The same steps are taken for the unlabeled pool and, fold by fold, for labeled rows whose answers are known (calibrate.py).
"""

from collections.abc import Mapping, Sequence

from worker.semisup.data import Adapter, Agreed, Ballot, Candidate, Neighbours, Query, Views
from worker.semisup.keep import Keep
from worker.semisup.stages.agree import VOTE_RESOLVERS, agree, justify, meaning_of
from worker.semisup.stages.pool import settle_by_pool
from worker.semisup.stages.propagate import Context, propagate
from worker.semisup.stages.teachers import Teachers
from worker.semisup.stages.views import class_names
from worker.semisup.task import Task


def vote(
    task: Task, teachers: Teachers, part: Sequence[Query], neighbours: Neighbours, views: Views, seed: int
) -> list[Ballot]:
    def ask(teacher: Adapter | None, rows: Sequence[Query]) -> list[Ballot]:
        context = Context(
            task.lab,
            teacher,
            task.labeled,
            neighbours,
            task.answers,
            task.spec.propagation,
            system=task.spec.system_prompt,
            max_length=task.max_length,
            max_new_tokens=task.max_new_tokens,
            seed=seed,
            views=views,
            in_context=teachers.in_context,
        )
        return propagate(context, rows)

    return teachers.each(part, lambda query: query.id, ask)


def settle_all(
    task: Task,
    teachers: Teachers,
    asked: Sequence[Query],
    ballots: Sequence[Ballot],
    weights: Mapping[str, float],
    keep: Keep,
    seed: int,
) -> tuple[Candidate, ...]:
    """One candidate per ballot: by the pool, or agreed ones first and then what the resolver makes of the disputed ones."""
    if task.spec.resolve.resolver == "pool":
        return keep("agree", lambda: pool_all(task, asked, ballots, weights))
    agreed = keep("agree", lambda: agree_all(task, ballots))
    resolved = keep.map("justify", agreed.disputed, lambda part: resolve(task, teachers, asked, part, seed))
    return (*agreed.settled, *resolved)


def pool_all(
    task: Task, asked: Sequence[Query], ballots: Sequence[Ballot], weights: Mapping[str, float]
) -> tuple[Candidate, ...]:
    classes = class_names(task.answers, task.split.labeled)
    letters = task.answers.kind == "choice"  # a view may know of letters that a row does not have
    options = {query.id: len(query.options) for query in asked} if letters else None
    return tuple(settle_by_pool(ballots, classes, task.answers, weights, options))


def agree_all(task: Task, ballots: Sequence[Ballot]) -> Agreed:
    meaning = meaning_of(task.lab.embed, task.answers, ballots)
    return agree(ballots, task.answers, task.spec.propagation.confidence, meaning=meaning)


def resolve(task: Task, teachers: Teachers, asked: Sequence[Query], part: Sequence[Ballot], seed: int) -> list[Candidate]:
    """What the spec does with disputed queries: ask the LM once more, or count votes."""
    if task.spec.resolve.resolver in VOTE_RESOLVERS:
        settle = VOTE_RESOLVERS[task.spec.resolve.resolver]
        meaning = meaning_of(task.lab.embed, task.answers, part)
        return [settle(ballot, task.answers, task.spec.propagation.confidence, meaning=meaning) for ballot in part]
    queries = {query.id: query for query in asked}

    def ask(teacher: Adapter | None, rows: Sequence[Ballot]) -> list[Candidate]:
        return justify(
            task.lab,
            teacher,
            rows,
            queries,
            task.answers,
            system=task.spec.system_prompt,
            max_length=task.justify_length,
            max_new_tokens=task.justify_tokens,
            seed=seed,
            confidence=task.spec.propagation.confidence,
        )

    return teachers.each(part, lambda ballot: ballot.query_id, ask)

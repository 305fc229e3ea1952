"""In-context propagation, second half: every collaborator infers every unlabeled query of a chunk."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from worker.semisup.answers import Answers
from worker.semisup.data import Adapter, Ballot, Example, Neighbours, Query, Vote
from worker.semisup.lm import Lab
from worker.semisup.prompts import conversation
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import Collaborator, Propagation
from worker.semisup.stages.neighbours import knn_vote


def propagate(
    lab: Lab,
    adapter: Adapter | None,
    queries: Sequence[Query],
    labeled: Mapping[str, Example],
    neighbours: Neighbours,
    answers: Answers,
    spec: Propagation,
    *,
    system: str | None,
    max_length: int,
    max_new_tokens: int,
    seed: int,
) -> list[Ballot]:
    """One ballot per query, votes in collaborator order. Each vote's seed derives from (seed, query, collaborator)."""
    collaborators = spec.collaborators if spec.collaboration else spec.collaborators[:1]
    votes: list[list[Vote]] = [[] for _ in queries]
    with lab.lm(adapter) as lm:
        for collaborator in collaborators:
            if collaborator.view == "knn":
                for query, made in zip(queries, votes, strict=True):
                    made.append(_knn(query, labeled, neighbours, answers, collaborator, spec.k))
                continue
            prompts = [
                lab.encode_prompt(
                    conversation(q, demonstrations(q, labeled, neighbours, spec, collaborator, seed), system), max_length
                )
                for q in queries
            ]
            seeds = [derive_seed(seed, "vote", q.id, collaborator.name, collaborator.seed) for q in queries]
            outputs = lm.generate(prompts, temperature=collaborator.temperature, seeds=seeds, max_new_tokens=max_new_tokens)
            for query, made, output in zip(queries, votes, outputs, strict=True):
                parsed = answers.parse(output.text, query)
                made.append(Vote(collaborator.name, output.text, parsed, output.mean_nll, output.tokens))
    return [Ballot(q.id, tuple(made)) for q, made in zip(queries, votes, strict=True)]


def _knn(
    query: Query,
    labeled: Mapping[str, Example],
    neighbours: Neighbours,
    answers: Answers,
    collaborator: Collaborator,
    default: int,
) -> Vote:
    """The neighbours' own vote. Its mean_nll is minus the log of the winner's share: one token's worth of confidence."""
    answer, share = knn_vote(neighbours, query, labeled, answers, collaborator.k or default)
    return Vote(collaborator.name, answer or "", answer, -math.log(max(share, 1e-9)), 0)


def demonstrations(
    query: Query,
    labeled: Mapping[str, Example],
    neighbours: Neighbours,
    spec: Propagation,
    collaborator: Collaborator,
    seed: int,
) -> list[Example]:
    """The query's neighbours as this collaborator shows them: how many, and in which order."""
    if not spec.in_context:
        return []
    count = spec.k if collaborator.k is None else collaborator.k
    near = [labeled[i] for i in neighbours.ids[query.id][:count]]
    if collaborator.order == "nearest_last":
        return near[::-1]
    if collaborator.order == "shuffled":
        generator = np.random.Generator(np.random.Philox(derive_seed(seed, "order", query.id, collaborator.seed)))
        return [near[i] for i in generator.permutation(len(near))]
    return near

"""In-context propagation, second half: every collaborator infers every unlabeled query of a chunk."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from worker.semisup.answers import Answers
from worker.semisup.data import Adapter, Ballot, Example, Message, Neighbours, Query, Views, Vote
from worker.semisup.engines.reply import Reply
from worker.semisup.lengths import tokens_read
from worker.semisup.lm import Lab
from worker.semisup.prompts import conversation
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import Collaborator, Propagation
from worker.semisup.stages.neighbours import knn_vote

NO_VIEWS = Views({})


@dataclass(frozen=True)
class Context:
    """What every collaborator of a round works from. `adapter` is the round's teacher; None: the base LM."""

    lab: Lab
    adapter: Adapter | None
    labeled: Mapping[str, Example]
    neighbours: Neighbours
    answers: Answers
    spec: Propagation
    system: str | None
    max_length: int  # prompt tokens
    max_new_tokens: int
    seed: int
    views: Views = NO_VIEWS
    in_context: bool = True  # whether the job's own LM is shown neighbours where the spec shows them


def propagate(context: Context, part: Sequence[Query]) -> list[Ballot]:
    """One ballot per query, votes in collaborator order, whatever the order they were asked in."""
    collaborators = context.spec.active
    made = {c.name: KINDS[c.kind](context, part, c) for c in by_network(context, collaborators)}
    rows = zip(*(made[c.name] for c in collaborators), strict=True)
    return [Ballot(query.id, scored(row)) for query, row in zip(part, rows, strict=True)]


def by_network(context: Context, collaborators: Sequence[Collaborator]) -> list[Collaborator]:
    """Those that share a network side by side, the one that is loaded already first: n chunks take about n loads, not 2n."""
    networks = {c.name: NETWORKS[c.kind](context, c) for c in collaborators if c.kind in NETWORKS}
    wanted = {name: lab.network_name(adapter) for name, (lab, adapter) in networks.items()}
    turns = list(dict.fromkeys([context.lab.mounted, *wanted.values()]))
    return sorted(collaborators, key=lambda c: turns.index(wanted[c.name]) if c.name in wanted else len(turns))


def scored(votes: Sequence[Vote]) -> tuple[Vote, ...]:
    """A vote that came without log-probs gets the mean of the row's others: it counts for agreement and sways no mean.

    Where no vote of the row was scored, mean_nll is 0 for all of them: there is nothing to rank by but agreement.
    """
    known = [vote.mean_nll for vote in votes if vote.scored]
    mean = sum(known) / len(known) if known else 0.0
    return tuple(vote if vote.scored else replace(vote, mean_nll=mean) for vote in votes)


# --- collaborators by kind --------------------------------------------------------------------------------------------

# The network of every kind that has one.
Network = tuple[Lab, Adapter | None]


def own_network(context: Context, _: Collaborator) -> Network:
    """The job's own LM with the round's adapter."""
    return context.lab, context.adapter


def other_network(context: Context, collaborator: Collaborator) -> Network:
    """A base LM as it is."""
    return context.lab.beside(collaborator.lm or ""), None


def tuned_network(context: Context, collaborator: Collaborator) -> Network:
    """An earlier job's adapter on its own base LM."""
    tuned = context.lab.outside.adapter(collaborator.adapter or "")
    return context.lab.beside(tuned.base), tuned.reference()


NETWORKS: Mapping[str, Callable[[Context, Collaborator], Network]] = {
    "own": own_network,
    "lm": other_network,
    "adapter": tuned_network,
}


def lm_votes(context: Context, part: Sequence[Query], collaborator: Collaborator) -> list[Vote]:
    """A network here answers, in its own chat template. Each vote's seed derives from (seed, query, collaborator)."""
    lab, adapter = NETWORKS[collaborator.kind](context, collaborator)
    room, length = (context.max_new_tokens, context.max_length) if lab is context.lab else _room(context, lab)
    prompts = [lab.encode_prompt(asked(context, query, collaborator), length) for query in part]
    with lab.lm(adapter) as lm:
        outputs = lm.generate(
            prompts,
            temperature=collaborator.temperature,
            seeds=[vote_seed(context, query, collaborator) for query in part],
            max_new_tokens=room,
        )
    return [
        Vote(collaborator.name, output.text, context.answers.parse(output.text, query), output.mean_nll, output.tokens)
        for query, output in zip(part, outputs, strict=True)
    ]


def engine_votes(context: Context, part: Sequence[Query], collaborator: Collaborator) -> list[Vote]:
    """A server answers the same conversations. Its tokens are not ours, so an automatic room is twice our own."""
    auto = context.spec.max_new_tokens == "auto"
    replies = context.lab.outside.engine(collaborator.engine or "").generate(
        [asked(context, query, collaborator) for query in part],
        temperature=collaborator.temperature,
        seeds=[vote_seed(context, query, collaborator) for query in part],
        max_new_tokens=context.max_new_tokens * 2 if auto else context.max_new_tokens,
        tick=context.lab.tick,
        optional=collaborator.optional,
    )
    return [_said(context, query, collaborator, reply) for query, reply in zip(part, replies, strict=True)]


def _said(context: Context, query: Query, collaborator: Collaborator, reply: Reply) -> Vote:
    answer = None if reply.error else context.answers.parse(reply.text, query)
    known = reply.mean_nll is not None
    return Vote(collaborator.name, reply.text, answer, reply.mean_nll or 0.0, reply.tokens, scored=known, error=reply.error)


def view_votes(context: Context, part: Sequence[Query], collaborator: Collaborator) -> list[Vote]:
    """No LM: the neighbours' vote, or what a classifier said of the row when the round began.

    mean_nll is minus the log of the answer's share or probability: one token's worth of confidence.
    """
    if collaborator.view == "knn":
        return knn_votes(context, part, collaborator)
    said = [context.views.tables[collaborator.name][query.id] for query in part]
    return [Vote(collaborator.name, row[0][0], row[0][0], -math.log(max(row[0][1], 1e-9)), 0, scores=row) for row in said]


def knn_votes(context: Context, part: Sequence[Query], collaborator: Collaborator) -> list[Vote]:
    votes = []
    count, ids = collaborator.k or context.spec.k, context.neighbours.ids
    meaning = context.answers.meaning(context.lab.embed, ([context.labeled[i].answer for i in ids[q.id][:count]] for q in part))
    for query in part:
        answer, share = knn_vote(context.neighbours, query, context.labeled, context.answers, count, meaning)
        votes.append(Vote(collaborator.name, answer or "", answer, -math.log(max(share, 1e-9)), 0))
    return votes


# What a collaborator is, by Collaborator.kind: (context, chunk, collaborator) -> one vote per query, in order.
KINDS: Mapping[str, Callable[[Context, Sequence[Query], Collaborator], list[Vote]]] = {
    "own": lm_votes,
    "lm": lm_votes,
    "adapter": lm_votes,
    "engine": engine_votes,
    "view": view_votes,
}


def _room(context: Context, lab: Lab) -> tuple[int, int]:
    """(response tokens, prompt tokens) by the measure of another LM's tokenizer, with the spare room the job's own has."""
    room = context.max_new_tokens
    if context.spec.max_new_tokens == "auto":
        longest = [max(len(one.encode_response(e.response)) for e in context.labeled.values()) for one in (lab, context.lab)]
        room += longest[0] - longest[1]
    limit = tokens_read(lab)
    length = context.max_length + context.max_new_tokens
    return room, max(16, (min(limit, length) if limit else length) - room)


def asked(context: Context, query: Query, collaborator: Collaborator) -> tuple[Message, ...]:
    """The conversation a collaborator is shown for a query."""
    return conversation(query, demonstrations(context, query, collaborator), context.system)


def vote_seed(context: Context, query: Query, collaborator: Collaborator) -> int:
    return derive_seed(context.seed, "vote", query.id, collaborator.name, collaborator.seed)


def demonstrations(context: Context, query: Query, collaborator: Collaborator) -> list[Example]:
    """The query's neighbours as this collaborator shows them: how many, and in which order."""
    spec = context.spec
    if not spec.in_context or (collaborator.kind == "own" and not context.in_context):
        return []
    count = spec.k if collaborator.k is None else collaborator.k
    near = [context.labeled[i] for i in context.neighbours.ids[query.id][:count]]
    if collaborator.order == "nearest_last":
        return near[::-1]
    if collaborator.order == "shuffled":
        generator = np.random.Generator(np.random.Philox(derive_seed(context.seed, "order", query.id, collaborator.seed)))
        return [near[i] for i in generator.permutation(len(near))]
    return near

"""Agreement between collaborators, and the resolvers that settle what is disputed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from worker.semisup.answers import Answers
from worker.semisup.data import Adapter, Agreed, Ballot, Candidate, Query, Vote
from worker.semisup.lm import Lab
from worker.semisup.meaning import Embed, Meaning
from worker.semisup.prompts import justification
from worker.semisup.seeds import derive_seed


def meaning_of(embed: Embed, answers: Answers, ballots: Sequence[Ballot]) -> Meaning | None:
    """What the resolvers below need to compare the votes of these ballots by meaning; None where answers agree by match."""
    return answers.meaning(embed, ([vote.answer for vote in ballot.votes] for ballot in ballots))


def agree(ballots: Sequence[Ballot], answers: Answers, confidence: str, *, meaning: Meaning | None = None) -> Agreed:
    """Settled where all votes were parsed and agree; disputed otherwise. Four unreadable votes agree on nothing.

    mean_nll of a settled candidate: over all its votes (`mean`; `share` says the same where all agree), or the first vote's
    alone (`first`, the released code).
    `meaning` is `meaning_of` these ballots; without it texts agree by match alone.
    """
    settled, disputed = [], []
    for ballot in ballots:
        groups = answers.group([vote.answer for vote in ballot.votes], meaning)
        if groups and len(groups[0][1]) == len(ballot.votes):
            settled.append(
                _candidate(ballot, groups[0], "agreement" if len(ballot.votes) > 1 else "single", confidence, answers)
            )
        else:
            disputed.append(ballot)
    return Agreed(tuple(settled), tuple(disputed))


def by_majority(ballot: Ballot, answers: Answers, confidence: str, *, meaning: Meaning | None = None) -> Candidate:
    """The answer with most votes; a tie at the top goes to the group with the lower mean_nll."""
    return _voted(ballot, answers, confidence, "vote", lambda vote: 1.0, meaning)


def by_weighted_majority(ballot: Ballot, answers: Answers, confidence: str, *, meaning: Meaning | None = None) -> Candidate:
    """Each vote weighs exp(-mean_nll): the geometric mean probability of its tokens."""
    return _voted(ballot, answers, confidence, "weighted_vote", lambda vote: math.exp(-vote.mean_nll), meaning)


def dropped(ballot: Ballot, answers: Answers, confidence: str, *, meaning: Meaning | None = None) -> Candidate:
    return _unanswered(ballot, "drop")


class Resolver(Protocol):
    def __call__(self, ballot: Ballot, answers: Answers, confidence: str, *, meaning: Meaning | None = None) -> Candidate: ...


VOTE_RESOLVERS: Mapping[str, Resolver] = {
    "vote": by_majority,
    "weighted_vote": by_weighted_majority,
    "drop": dropped,
}


def justify(
    lab: Lab,
    adapter: Adapter | None,
    ballots: Sequence[Ballot],
    queries: Mapping[str, Query],
    answers: Answers,
    *,
    system: str | None,
    max_length: int,
    max_new_tokens: int,
    seed: int,
    confidence: str = "mean",
) -> list[Candidate]:
    """Self-justification: one more greedy call that sees the candidates and decides. Its own mean_nll is the confidence.

    With `share` less the log of the share of votes that gave what was decided.
    A decision that is none of the candidates, or unreadable, leaves the query without an answer.
    """
    asked = [justification(queries[b.query_id], b.votes, answers, system) for b in ballots]
    with lab.lm(adapter) as lm:
        outputs = lm.generate(
            [lab.encode_prompt(messages, max_length) for messages in asked],
            temperature=0.0,
            seeds=[derive_seed(seed, "justify", b.query_id) for b in ballots],
            max_new_tokens=max_new_tokens,
        )
    decided = [
        Ballot(
            b.query_id,
            (*b.votes, Vote("justify", out.text, answers.parse(out.text, queries[b.query_id]), out.mean_nll, out.tokens)),
        )
        for b, out in zip(ballots, outputs, strict=True)
    ]
    meaning = meaning_of(lab.embed, answers, decided)
    return [
        _justified(ballot, with_decision.votes[-1], answers, meaning, confidence)
        for ballot, with_decision in zip(ballots, decided, strict=True)
    ]


def _justified(ballot: Ballot, decision: Vote, answers: Answers, meaning: Meaning | None, confidence: str) -> Candidate:
    """The pseudo-response is that of the most confident vote that gave what was decided, with the vote's own reasoning."""
    supporters = [vote for vote in ballot.votes if answers.same(vote.answer, decision.answer, meaning)]
    if not supporters:
        return _unanswered(ballot, "justify", decision)
    response, answer = _said(supporters, answers)
    return Candidate(
        query_id=ballot.query_id,
        response=response,
        answer=answer,
        mean_nll=decision.mean_nll + _surprise(confidence, len(supporters) / len(ballot.votes)),
        agreement=len(supporters) / len(ballot.votes),
        resolved_by="justify",
        votes=ballot.votes,
        justification=decision,
    )


def _voted(
    ballot: Ballot, answers: Answers, confidence: str, name: str, weight: Callable[[Vote], float], meaning: Meaning | None
) -> Candidate:
    groups = answers.group([vote.answer for vote in ballot.votes], meaning)
    if not groups:
        return _unanswered(ballot, name)

    def standing(group: tuple[str, list[int]]) -> tuple[float, float]:
        members = [ballot.votes[i] for i in group[1]]
        return sum(map(weight, members)), -sum(vote.mean_nll for vote in members) / len(members)

    return _candidate(ballot, max(groups, key=standing), name, confidence, answers)


def _candidate(ballot: Ballot, group: tuple[str, list[int]], resolved_by: str, confidence: str, answers: Answers) -> Candidate:
    """The pseudo-response is that of the most confident agreeing vote."""
    members = [ballot.votes[i] for i in group[1]]
    response, answer = _said(members, answers)
    share = len(members) / len(ballot.votes)
    nll = members[0].mean_nll if confidence == "first" else sum(vote.mean_nll for vote in members) / len(members)
    return Candidate(
        query_id=ballot.query_id,
        response=response,
        answer=answer,
        mean_nll=nll + _surprise(confidence, share),
        agreement=share,
        resolved_by=resolved_by,  # type: ignore[arg-type]
        votes=ballot.votes,
    )


def _surprise(confidence: str, share: float) -> float:
    """What disagreement adds to mean_nll, in nats: exp(-mean_nll) becomes the share times the votes' own probability."""
    return -math.log(share) if confidence == "share" else 0.0


def _said(members: Sequence[Vote], answers: Answers) -> tuple[str, str]:
    """(response, its answer) of the most confident of votes that agree, its reasoning and all.

    A vote that nobody generated (the neighbours', 0 tokens) is an answer without reasoning: it speaks only where no other does.
    """
    best = min(members, key=lambda vote: (vote.tokens == 0, vote.mean_nll))
    assert best.answer is not None, "a failed vote agrees with nothing"
    return answers.canonical(best.response, best.answer), best.answer


def _unanswered(ballot: Ballot, resolved_by: str, decision: Vote | None = None) -> Candidate:
    nll = sum(vote.mean_nll for vote in ballot.votes) / len(ballot.votes)
    return Candidate(ballot.query_id, "", None, nll, 0.0, resolved_by, ballot.votes, decision)  # type: ignore[arg-type]

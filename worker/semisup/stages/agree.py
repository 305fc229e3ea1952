"""Agreement between collaborators, and the resolvers that settle what is disputed."""

import math
from collections.abc import Callable, Mapping, Sequence

from worker.semisup.answers import Answers
from worker.semisup.data import Adapter, Agreed, Ballot, Candidate, Query, Vote
from worker.semisup.lm import Lab
from worker.semisup.prompts import justification
from worker.semisup.seeds import derive_seed


def agree(ballots: Sequence[Ballot], answers: Answers, confidence: str) -> Agreed:
    """Settled where all votes were parsed and agree; disputed otherwise. Four unreadable votes agree on nothing.

    mean_nll of a settled candidate: over all its votes (`mean`), or the first vote's alone (`first`, the released code).
    """
    settled, disputed = [], []
    for ballot in ballots:
        groups = answers.group([vote.answer for vote in ballot.votes])
        if groups and len(groups[0][1]) == len(ballot.votes):
            settled.append(
                _candidate(ballot, groups[0], "agreement" if len(ballot.votes) > 1 else "single", confidence, answers)
            )
        else:
            disputed.append(ballot)
    return Agreed(tuple(settled), tuple(disputed))


def by_majority(ballot: Ballot, answers: Answers, confidence: str) -> Candidate:
    """The answer with most votes; a tie at the top goes to the group with the lower mean_nll."""
    return _voted(ballot, answers, confidence, "vote", lambda vote: 1.0)


def by_weighted_majority(ballot: Ballot, answers: Answers, confidence: str) -> Candidate:
    """Each vote weighs exp(-mean_nll): the geometric mean probability of its tokens."""
    return _voted(ballot, answers, confidence, "weighted_vote", lambda vote: math.exp(-vote.mean_nll))


def dropped(ballot: Ballot, answers: Answers, confidence: str) -> Candidate:
    return _unanswered(ballot, "drop")


VOTE_RESOLVERS: Mapping[str, Callable[[Ballot, Answers, str], Candidate]] = {
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
) -> list[Candidate]:
    """Self-justification: one more greedy call that sees the candidates and decides. Its own mean_nll is the confidence.

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
    return [
        _justified(
            ballot,
            Vote("justify", out.text, answers.parse(out.text, queries[ballot.query_id]), out.mean_nll, out.tokens),
            answers,
        )
        for ballot, out in zip(ballots, outputs, strict=True)
    ]


def _justified(ballot: Ballot, decision: Vote, answers: Answers) -> Candidate:
    supporters = [vote for vote in ballot.votes if answers.same(vote.answer, decision.answer)]
    if not supporters or decision.answer is None:
        return _unanswered(ballot, "justify", decision)
    return Candidate(
        query_id=ballot.query_id,
        response=answers.canonical(min(supporters, key=lambda vote: vote.mean_nll).response, decision.answer),
        answer=decision.answer,
        mean_nll=decision.mean_nll,
        agreement=len(supporters) / len(ballot.votes),
        resolved_by="justify",
        votes=ballot.votes,
        justification=decision,
    )


def _voted(ballot: Ballot, answers: Answers, confidence: str, name: str, weight: Callable[[Vote], float]) -> Candidate:
    groups = answers.group([vote.answer for vote in ballot.votes])
    if not groups:
        return _unanswered(ballot, name)

    def standing(group: tuple[str, list[int]]) -> tuple[float, float]:
        members = [ballot.votes[i] for i in group[1]]
        return sum(map(weight, members)), -sum(vote.mean_nll for vote in members) / len(members)

    return _candidate(ballot, max(groups, key=standing), name, confidence, answers)


def _candidate(ballot: Ballot, group: tuple[str, list[int]], resolved_by: str, confidence: str, answers: Answers) -> Candidate:
    """The pseudo-response is that of the most confident agreeing vote."""
    answer, members = group[0], [ballot.votes[i] for i in group[1]]
    nll = members[0].mean_nll if confidence == "first" else sum(vote.mean_nll for vote in members) / len(members)
    return Candidate(
        query_id=ballot.query_id,
        response=answers.canonical(min(members, key=lambda vote: vote.mean_nll).response, answer),
        answer=answer,
        mean_nll=nll,
        agreement=len(members) / len(ballot.votes),
        resolved_by=resolved_by,  # type: ignore[arg-type]
        votes=ballot.votes,
    )


def _unanswered(ballot: Ballot, resolved_by: str, decision: Vote | None = None) -> Candidate:
    nll = sum(vote.mean_nll for vote in ballot.votes) / len(ballot.votes)
    return Candidate(ballot.query_id, "", None, nll, 0.0, resolved_by, ballot.votes, decision)  # type: ignore[arg-type]

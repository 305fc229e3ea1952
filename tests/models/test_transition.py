"""The life of a job as a state machine: Hypothesis plays workers, zombies, tenants and sweepers against each other.

The rules know nothing of how a ledger works; what they promise is checked on a ledger in memory and on the real queries.
"""

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from models.status import MOVES, TERMINAL, Happening, JobStatus, NoSuchMove, after
from tests.models.ledgers import BUGS, Ledger, PlainLedger, QueryLedger, Seen

STAGES = ("warmup", "select", "evolve")
FOLLOWS = {status: {status, *moves.values()} for status, moves in MOVES.items()}


class Protocol(RuleBasedStateMachine):
    """Holders are (job, token) pairs as workers remember them: they do not forget a lease when they lose it."""

    make: Callable[[], Ledger] = PlainLedger
    jobs, holders = Bundle("jobs"), Bundle("holders")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = type(self).make()
        self.last: dict[str, Seen] = {}
        self.rightful: dict[str, int] = {}  # the newest token handed out for a job
        self.asked: set[str] = set()  # a cancel of a job that had not ended

    @rule(target=jobs)
    def submit(self) -> str:
        job = self.ledger.submit()
        self.last[job] = self.ledger.see(job)
        assert self.last[job].status == JobStatus.queued
        return job

    @rule(target=holders)
    def claim(self) -> Any:
        waiting = [job for job, seen in self.last.items() if seen.status == JobStatus.queued]
        found = self.ledger.claim()
        if found is None:
            assert not waiting, "what waits is given to whoever asks"
            return multiple()
        job, token = found
        assert self.last[job].status in (JobStatus.queued, JobStatus.running)
        assert token > max(self.rightful.values(), default=0), "a token is never handed out twice"
        self.rightful[job] = token
        return found

    @rule(job=jobs)
    def expire(self, job: str) -> None:
        self.ledger.expire(job)

    @rule(holder=holders)
    def beat(self, holder: tuple[str, int]) -> None:
        self.write(holder, self.ledger.beat)

    @rule(holder=holders, stage=st.sampled_from(STAGES))
    def commit(self, holder: tuple[str, int], stage: str) -> None:
        self.write(holder, lambda job, token: self.ledger.commit(job, token, stage))

    @rule(holder=holders, well=st.booleans())
    def finish(self, holder: tuple[str, int], well: bool) -> None:
        accepted = self.write(holder, lambda job, token: self.ledger.finish(job, token, well=well))
        if accepted and holder[0] in self.asked:
            assert self.ledger.see(holder[0]).status == JobStatus.cancelled, "a cancel that came first wins"

    @rule(holder=holders, counted=st.booleans())
    def release(self, holder: tuple[str, int], counted: bool) -> None:
        self.write(holder, lambda job, token: self.ledger.release(job, token, counted=counted))

    @rule()
    def sweep(self) -> None:
        self.ledger.sweep()

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        before = self.ledger.see(job).status
        self.ledger.cancel(job)
        if before not in TERMINAL:
            self.asked.add(job)
        if before in (JobStatus.queued, JobStatus.paused):
            assert self.ledger.see(job).status == JobStatus.cancelled, "nobody is waited for"

    @rule(job=jobs)
    def pause(self, job: str) -> None:
        before = self.ledger.see(job).status
        self.ledger.pause(job)
        if before == JobStatus.queued:
            assert self.ledger.see(job).status == JobStatus.paused

    @rule(job=jobs)
    def resume(self, job: str) -> None:
        self.ledger.resume(job)
        assert self.ledger.see(job).status != JobStatus.paused

    def write(self, holder: tuple[str, int], move: Callable[[str, int], bool]) -> bool:
        """Accepted from the rightful holder of a running job, and from nobody else."""
        job, token = holder
        running, before = self.ledger.see(job).status == JobStatus.running, self.ledger.see(job)
        accepted = move(job, token)
        assert accepted == (running and self.rightful[job] == token)
        if not accepted:
            assert self.ledger.see(job) == before, "a refused write changes nothing"
        return accepted

    @invariant()
    def what_happened_was_allowed(self) -> None:
        for job, before in self.last.items():
            seen = self.ledger.see(job)
            if before.status in TERMINAL:
                assert seen == before, "what has ended stays as it is"
            assert JobStatus(seen.status) in FOLLOWS[JobStatus(before.status)]
            assert len(set(seen.recorded)) == len(seen.recorded), "a stage is recorded once"
            assert set(before.recorded) <= set(seen.recorded)
            if seen.status in (JobStatus.queued, JobStatus.paused):
                assert job not in self.asked, "a cancelled job waits for nobody"
            self.last[job] = seen


def play(make: Callable[[], Ledger], examples: int, steps: int) -> None:
    machine = type("Machine", (Protocol,), {"make": staticmethod(make)})
    few = settings(
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a failure is told by its steps; making them fewer takes longer than finding them
        database=None,
    )
    run_state_machine_as_test(machine, settings=few)


def test_the_protocol_keeps_its_promises() -> None:
    play(PlainLedger, examples=60, steps=40)


@pytest.mark.parametrize("bug", list(BUGS))
def test_a_planted_bug_is_found(bug: str) -> None:
    with pytest.raises(AssertionError):
        play(BUGS[bug], examples=400, steps=40)


def test_the_queries_keep_the_same_promises(database: str) -> None:
    play(QueryLedger, examples=8, steps=30)


@pytest.mark.parametrize(("status", "happening"), list(itertools.product(JobStatus, Happening)))
def test_a_move_is_either_in_the_table_or_refused_in_words(status: JobStatus, happening: Happening) -> None:
    if happening in MOVES[status]:
        assert after(status, happening) == MOVES[status][happening]
    else:
        with pytest.raises(NoSuchMove, match=f"a job that is {status} cannot be"):
            after(status, happening)


def test_every_status_can_be_reached_and_every_job_can_end() -> None:
    reached = {to for moves in MOVES.values() for to in moves.values()}
    assert reached == set(JobStatus) - {JobStatus.validating_files}
    for status in JobStatus:
        ahead, new = {status}, {status}
        while new:
            new = {to for at in new for to in MOVES[at].values()} - ahead
            ahead |= new
        assert ahead & TERMINAL

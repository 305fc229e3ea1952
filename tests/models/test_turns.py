"""Tenants take turns: nobody waits for more than one job of each other tenant, however many those have queued."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, insert, select, text

from models.db import engine, transaction
from models.queries import leases
from models.queries.leases import Lease
from models.status import JobStatus
from models.tables import Job
from tests.conftest import Configure, Open
from tests.keys import add_key
from tests.models.moves import claim, end, release
from tests.rows import add_file, add_job, get_job, let_lease_expire


def tenants(*names: str) -> dict[str, str]:
    """A training file for each."""
    for name in names:
        add_key(name)
    return {name: add_file(tenant=name) for name in names}


def queue(files: dict[str, str], *names: str) -> list[str]:
    return [add_job(tenant=name, training_file=files[name]) for name in names]


def owner(lease: Lease) -> str:
    return get_job(lease.job_id).tenant_id


def test_a_tenant_with_nothing_running_comes_before_one_that_has_queued_for_longer(database: str) -> None:
    files = tenants("many", "few")
    queue(files, *["many"] * 5)
    claim("w1")
    queue(files, "few")
    assert [owner(claim(f"w{n}")) for n in range(2, 5)] == ["few", "many", "many"]


def test_one_slot_goes_round(database: str) -> None:
    files = tenants("a", "b", "c")
    queue(files, "a", "a", "a", "a", "b", "b", "c")
    served = []
    for _ in range(7):
        lease = claim("w1")
        served.append(owner(lease))
        end(lease)
    assert served == ["a", "b", "c", "a", "b", "a", "a"]


def test_within_a_tenant_the_oldest_job_comes_first(database: str) -> None:
    files = tenants("a")
    jobs = queue(files, "a", "a", "a")
    assert [claim(f"w{n}").job_id for n in range(3)] == jobs


def test_a_job_that_came_back_does_not_jump_the_turn(database: str) -> None:
    files = tenants("a", "b")
    queue(files, "a", "b")
    first = claim("w1")
    release(first, counted=False)
    assert [owner(claim("w1")), owner(claim("w2"))] == ["b", "a"]


def test_the_job_of_a_silent_worker_is_found_whoever_owns_it(database: str) -> None:
    files = tenants("a")
    (job,) = queue(files, "a")
    claim("w1")
    let_lease_expire(job)
    assert claim("w2").job_id == job


def test_a_limit_of_running_jobs_leaves_workers_to_others(database: str, configure: Configure) -> None:
    configure(tenant_running_jobs=2)
    files = tenants("a", "b")
    queue(files, *["a"] * 4)
    running = [claim("w1"), claim("w2")]
    with transaction() as session:
        assert leases.claim_job(session, "w3") is None
    queue(files, "b")
    assert owner(claim("w3")) == "b"
    let_lease_expire(running[0].job_id)
    assert claim("w4").job_id == running[0].job_id  # it is one of the two
    end(running[1])
    assert owner(claim("w5")) == "a"


MOVES = st.lists(st.tuples(st.sampled_from(["queue", "claim", "end", "back"]), st.integers(0, 9)), max_size=60)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nobody_is_passed_over(kind: str, open_database: Open) -> None:
    """Any history: a tenant that waits and has nothing running is passed over at most once by each other tenant."""
    open_database(kind)
    names = ("a", "b", "c")
    files = tenants(*names)

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(MOVES)
    def run(moves: list[tuple[str, int]]) -> None:
        with transaction() as session:
            for table in ("events", "outbox", "jobs"):
                session.execute(text(f"delete from {table}"))
        running: list[Lease] = []
        waiting: Counter[str] = Counter()
        passed: dict[str, Counter[str]] = {name: Counter() for name in names}
        for what, number in moves:
            name = names[number % 3]
            if what == "queue":
                queue(files, name)
                waiting[name] += 1
            elif what == "claim":
                with transaction() as session:
                    lease = leases.claim_job(session, f"w{number}")
                assert (lease is None) == (waiting.total() == 0)
                if lease is None:
                    continue
                chosen, busy = owner(lease), Counter(owner(other) for other in running)
                assert waiting[chosen]
                waiting[chosen] -= 1
                running.append(lease)
                passed[chosen].clear()
                for other in names:
                    if other != chosen and waiting[other] and not busy[other]:
                        assert not busy[chosen]
                        passed[other][chosen] += 1
                        assert passed[other][chosen] == 1, (other, chosen)
            elif running:
                lease = running.pop(number % len(running))
                mine = owner(lease)
                if what == "end":
                    end(lease, JobStatus.succeeded)
                else:
                    release(lease, counted=False)
                    waiting[mine] += 1

    run()


def test_ten_thousand_queued_jobs_delay_another_tenant_by_one(database: str) -> None:
    files = tenants("many", "few")
    queue(files, "many")
    with transaction() as session:
        first = dict(session.execute(select(Job.__table__)).mappings().one())
        session.execute(insert(Job), [{**first, "id": f"ftjob-{n:027d}", "created_at": 1.0 + n} for n in range(10_000)])
    claim("w1")
    queue(files, "few")
    heard: list[str] = []
    listen = (engine(), "before_cursor_execute", lambda *given: heard.append(given[2]))
    event.listen(*listen)
    assert owner(claim("w2")) == "few"
    event.remove(*listen)
    assert sum(" ORDER BY " in statement for statement in heard) == 1  # whose turn it is, is one statement

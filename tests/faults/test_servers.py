"""Faults of whole servers and of everybody at once: a PostgreSQL and a Redis of our own, an API and two workers on them."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.chaos.checker import check
from tests.chaos.clients import KINDS, Client
from tests.chaos.rig import API, LEASE_SECONDS, Rig
from tests.chaos.run import drained, undisturbed
from tests.worker.watching import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SOON_SECONDS = 200.0  # for a machine that stands still now and then


class World:
    """One rig for the module: what each test leaves must satisfy the checker."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.client = rig, Client(rig, 0)
        self.references = undisturbed(rig, self.client)

    def submit(self, kind: str = "small") -> str:
        job = self.client.submit(kind)
        assert job
        return job

    def begun(self, job: str, what: str) -> bool:
        return any(deed.job == job and deed.what == what for deed in self.rig.deeds())

    def holds(self, jobs: list[str]) -> None:
        """All of them succeed as if nothing had happened."""
        assert drained(self.rig, 200), self.rig.logs()[-3000:]
        history = self.rig.history()
        history.ops, history.references = self.client.ops, self.references
        assert check(history) == []
        assert {job["status"] for job in history.jobs if job["id"] in jobs} == {"succeeded"}
        assert {job["id"] for job in history.jobs} >= set(jobs)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.rig.url + path, timeout=60)

    def says(self, word: str) -> bool:
        answer = self.get("/readyz")
        return (answer.status_code, answer.json()["status"]) == (200, word)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Rig(tmp_path_factory.mktemp("servers") / "rig", scaled=True) as rig:
        yield World(rig)


def test_everybody_killed_at_once_and_started_again_loses_nothing(world: World) -> None:
    jobs = [world.submit(kind) for kind in KINDS]
    wait_until(lambda: world.begun(jobs[0], "begin warmup"), SOON_SECONDS, world.rig.logs)
    for process in world.rig.processes.values():
        process.kill()
    world.rig.redis.kill()
    for process in world.rig.processes.values():
        process.wait()
    world.rig.redis.start()
    for name in tuple(world.rig.processes):
        world.rig.start(name, wait=False)
    for name in world.rig.processes:
        world.rig.until_ready(name)
    world.holds(jobs)


def test_a_redis_that_is_dead_and_comes_back_empty_costs_no_job_and_no_token(world: World) -> None:
    still, running = len(world.rig.pulse.faults), world.submit("large")
    wait_until(lambda: world.begun(running, "begin chunk 0"), SOON_SECONDS, world.rig.logs)
    world.rig.redis.kill()
    try:
        late = world.submit()
        wait_until(lambda: world.says("degraded"), SOON_SECONDS)  # the API serves without a broker, and says so
        wait_until(lambda: world.begun(late, "start"), SOON_SECONDS, world.rig.logs)
    finally:
        world.rig.redis.start()
    world.holds([running, late])
    tokens = {deed.token for deed in world.rig.deeds() if deed.job == running and deed.what == "start"}
    assert 1 <= len(tokens) <= 1 + len(world.rig.pulse.faults) - still, "unless the machine stood still, for a lease"


def test_a_redis_that_hangs_holds_up_no_request_and_no_job(world: World) -> None:
    world.rig.redis.process.send_signal(signal.SIGSTOP)
    try:
        job = world.submit()
        wait_until(lambda: world.begun(job, "start"), SOON_SECONDS, world.rig.logs)
    finally:
        world.rig.redis.process.send_signal(signal.SIGCONT)
    world.holds([job])


def test_a_redis_without_memory_takes_no_message_and_costs_no_job(world: World) -> None:
    """It ends nobody either: not those that are connected, not those that connect anew."""
    with world.rig.redis.client() as client:
        client.config_set("maxmemory", 1)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    try:
        job = world.submit()
        time.sleep(LEASE_SECONDS)
    finally:
        with world.rig.redis.client() as client:
            client.config_set("maxmemory", 0)
    world.holds([job])
    assert [name for name, process in world.rig.processes.items() if process.poll() is not None] == []


def test_a_postgresql_that_is_stopped_is_named_and_work_goes_on_when_it_is_back(world: World) -> None:
    job = world.submit("large")
    wait_until(lambda: world.begun(job, "begin chunk 0"), SOON_SECONDS, world.rig.logs)
    assert world.rig.postgres
    world.rig.postgres.halt()
    try:
        readiness = world.get("/readyz")
        failed = [one["name"] for one in readiness.json()["checks"] if not one["ok"]]
        assert (readiness.status_code, "database" in failed) == (503, True)
        assert world.get("/healthz").status_code == 200
        with world.rig.client() as http:
            answer = http.get("/fine_tuning/jobs")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "database_unavailable"
        time.sleep(0.5 * LEASE_SECONDS)
    finally:
        world.rig.postgres.start()
    world.holds([job])


def test_a_postgresql_killed_while_it_commits_keeps_what_it_confirmed(world: World) -> None:
    stop, jobs = threading.Event(), list[str]()

    def submit_on() -> None:
        while not stop.is_set():
            if job := world.client.submit("small"):
                jobs.append(job)

    thread = threading.Thread(target=submit_on)
    thread.start()
    try:
        wait_until(lambda: len(jobs) >= 3, SOON_SECONDS)
        assert world.rig.postgres
        world.rig.postgres.kill()
        world.rig.postgres.start()
        wait_until(lambda: len(jobs) >= 6, SOON_SECONDS)
    finally:
        stop.set()
        thread.join()
    world.holds(jobs)


@pytest.mark.parametrize("count", [1, 400, 4000])
def test_a_connection_cut_after_some_bytes_makes_one_job(world: World, count: int) -> None:
    """Between the API and its database, and between the client and the API: the same key is asked again."""
    world.rig.proxies["postgres"].set(f"cut:{count}")
    world.rig.proxies["http"].set(f"cut:{count}")
    healed = threading.Timer(1.5, lambda: [proxy.set("pass") for proxy in world.rig.proxies.values()])
    healed.start()
    job = world.submit()
    healed.join()
    world.holds([job])


def test_requests_behind_a_locked_table_are_told_to_come_again_and_the_server_lives(world: World) -> None:
    """Forty at once, more than the pool has connections; the lock is not given up before the last has its answer."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        with world.rig.client() as http:
            answers.append(http.get("/fine_tuning/jobs"))

    threads = [threading.Thread(target=ask) for _ in range(40)]
    assert world.rig.postgres
    plain = world.rig.database_url.replace("+psycopg", "")
    with psycopg.connect(plain) as connection:
        connection.execute("lock table jobs in access exclusive mode")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(answers) == 40
        assert world.get("/healthz").status_code == 200
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"]["code"] for answer in answers} == {"database_unavailable"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    with world.rig.client() as http:
        assert http.get("/fine_tuning/jobs").status_code == 200
    wait_until(lambda: world.says("ready"), SOON_SECONDS)
    world.holds([world.submit()])


def test_the_api_was_never_restarted_by_these_faults(world: World) -> None:
    assert world.rig.processes[API].poll() is None
    critical = [line for line in world.rig.logs().splitlines() if '"level": "critical"' in line]
    assert critical == []
    assert Path(world.rig.folder / "runlog").exists()

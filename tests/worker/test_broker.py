"""A Redis that answers every write with "no": out of memory. Its worker lives on, finds work, and hears it again afterwards."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.backends import OwnRedis
from tests.conftest import Stack
from tests.rows import add_job
from tests.worker.fake_runner import spec_for
from tests.worker.fake_worker import ARGS
from tests.worker.test_celery import ended, start_worker
from tests.worker.watching import wait_until
from worker.app import RING, publish
from worker.housekeeper import TOLD_AGAIN_SECONDS

FULL_SECONDS = 8.0
HEARD_SECONDS = 120.0


@pytest.fixture
def redis() -> Iterator[OwnRedis]:
    own = OwnRedis()
    yield own
    own.stop()


def set_memory(redis: OwnRedis, limit: int) -> None:
    with redis.client() as client:
        client.config_set("maxmemory", limit)


def hang_up(redis: OwnRedis) -> None:
    """On everybody: who connects anew writes before it reads, and is refused."""
    with redis.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def doorbells(stack: Stack) -> int:
    return stack.logs().count(f"Task {RING}[")


def test_a_redis_without_memory_ends_no_worker_costs_no_job_and_is_heard_when_it_has_some(
    embedded: Stack, redis: OwnRedis, tmp_path: Path, configure: Callable[..., None]
) -> None:
    configure(broker_url=f"redis://127.0.0.1:{redis.port}/0", lease_seconds=60)
    there = start_worker(embedded)
    began = time.monotonic()
    set_memory(redis, 1)
    hang_up(redis)
    late = embedded.spawn("celery", *ARGS, "-n", "late@test")  # one that begins while the broker refuses everybody
    job = add_job(spec=spec_for(tmp_path))
    ended(embedded, job)
    with pytest.raises(AssertionError, match="not within"):
        wait_until(lambda: there.poll() is not None or late.poll() is not None, FULL_SECONDS)
    said, passed = embedded.logs(), time.monotonic() - began  # in this order: what was said took no longer
    assert said.count("Cannot connect to redis") < 2 * passed, "two workers, and neither floods its log"
    assert said.count("took no doorbells") <= 2 * (1 + passed // TOLD_AGAIN_SECONDS), "each says it once a minute"
    late.send_signal(signal.SIGTERM)
    assert late.wait(120) == 0, "who waits for a broker hears that he shall go"

    set_memory(redis, 0)
    before = doorbells(embedded)
    wait_until(lambda: publish(["ftjob-nobody"]) or doorbells(embedded) > before + 1, HEARD_SECONDS, embedded.logs)
    assert there.poll() is None

"""Short runs of the nemesis, and the checker's own examination: bugs planted in real processes must be found."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.checker import Violation, check
from tests.chaos.clients import Client
from tests.chaos.nemesis import Nemesis
from tests.chaos.rig import WORKERS, Rig
from tests.chaos.run import chaos, drained
from tests.worker.watching import wait_until

SECONDS, AT_LEAST = 15.0, 4  # of faults
pytestmark = pytest.mark.timeout(900)
SOON_SECONDS, DRAIN_SECONDS, NEVER_SECONDS = 200.0, 200.0, 6.0  # the first two are for a machine that does much else


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [False, True], ids=["embedded", "scaled"])
def test_nothing_is_lost_or_doubled_in_seconds_of_random_faults(scaled: bool) -> None:
    outcome = chaos(SECONDS, seed=4, scaled=scaled, at_least=AT_LEAST)
    summary = outcome.summary()
    assert outcome.violations == [], summary
    assert summary["faults_injected"] >= AT_LEAST, summary
    assert summary["jobs"].get("succeeded", 0) >= 3, summary


def interrupted(rig: Rig, client: Client, nemesis: Nemesis) -> None:
    """The runner is killed once its first stage is recorded: the next one finds it finished."""
    job = client.submit("long")
    wait_until(lambda: recorded(rig, job, "round-1/warmup"), SOON_SECONDS, rig.logs)
    nemesis._kill("kill_runner", tuple(deed.pid for deed in rig.deeds() if (deed.job, deed.what) == (job, "start")))


def frozen(rig: Rig, client: Client, nemesis: Nemesis) -> None:
    """A worker and its runner freeze while they train, thaw when another worker has the job, and go on."""
    job = client.submit("long")
    wait_until(lambda: began(rig, job, "begin warmup"), SOON_SECONDS, rig.logs)
    owner = wait_until(lambda: next((name for name in WORKERS if rig.children(name)), None), SOON_SECONDS, rig.logs)
    pids, at = (rig.processes[owner].pid, *rig.children(owner)), time.time()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(
            lambda: len({move.token for move in rig.moves() if (move.job, move.after) == (job, "running")}) > 1, SOON_SECONDS
        )
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    nemesis._note("stop_worker", at, pids)


def cancelled(rig: Rig, client: Client, nemesis: Nemesis) -> None:
    job = client.submit("long")
    wait_until(lambda: began(rig, job, "begin chunk 0"), SOON_SECONDS, rig.logs)
    assert client.tell(str(job), "cancel") == "ok"


def nothing(rig: Rig, client: Client, nemesis: Nemesis) -> None:
    client.submit("small")


def recorded(rig: Rig, job: str | None, name: str) -> bool:
    return any((move.job, move.name, move.after) == (job, name, "done") for move in rig.moves())


def began(rig: Rig, job: str | None, what: str) -> bool:
    return any((deed.job, deed.what) == (job, what) for deed in rig.deeds())


Happening = Callable[[Rig, Client, Nemesis], None]
BUGS: dict[str, tuple[Happening, str]] = {
    "stage recorded twice": (interrupted, "P3"),
    "no lease check": (frozen, "P2"),
    "cancel overwritten": (cancelled, "P8"),
    "outbox skipped": (nothing, "P1"),
}


def examined(folder: Path, bug: str, *happenings: Happening) -> list[Violation]:
    with Rig(folder, scaled=False, bug=bug) as rig:
        client = Client(rig, 0)
        nemesis = Nemesis(rig, client, 0)
        for happen in happenings:
            happen(rig, client, nemesis)
            drained(rig, NEVER_SECONDS if bug == "outbox skipped" else DRAIN_SECONDS)
        history = rig.history()
        history.ops = client.ops
        history.faults += nemesis.faults
        return check(history)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_planted_in_real_processes_is_caught(bug: str, tmp_path: Path) -> None:
    happen, promise = BUGS[bug]
    found = examined(tmp_path, bug, happen)
    assert promise in {violation.promise for violation in found}, found


@pytest.mark.slow
def test_without_a_bug_the_same_happenings_break_nothing(tmp_path: Path) -> None:
    assert examined(tmp_path, "", nothing, frozen, cancelled, interrupted) == []

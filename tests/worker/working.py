"""Supervisors at work in the test's own process, on the fake runner."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.queries import leases
from tests.rows import add_file, add_job, get_job
from tests.worker.fake_runner import COMMAND, gate, spec_for
from tests.worker.watching import result
from worker.supervisor import Supervisor


@contextmanager
def at_work(name: str = "w1", command: tuple[str, ...] = COMMAND) -> Iterator[Supervisor]:
    """A supervisor working in a thread of its own; joined at the end, when it must have nothing left to do."""
    supervisor = Supervisor(command=command, name=name)
    thread = threading.Thread(target=supervisor.work)
    thread.start()
    try:
        yield supervisor
    except BaseException:
        supervisor.stop()
        raise
    finally:
        thread.join(120)
        assert not thread.is_alive()


def notice(supervisor: Supervisor) -> None:
    """It looks around now rather than at the next beat: tests with long leases need not wait for one."""
    heart = supervisor._heart
    assert heart
    heart.nudge()


def let_go(spec: dict[str, Any]) -> None:
    """Whoever is held by the spec's `holds` goes on, and nobody is held any more."""
    gate(spec).touch()


def take_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker claims a job from now on or helps with one: what a test sees is how a run ended, not what came after it."""
    for claim in ("claim_job", "claim_help"):
        monkeypatch.setattr(leases, claim, lambda *_: None)


def work(times: int = 1) -> None:
    for _ in range(times):
        Supervisor(command=COMMAND, name="w1").work()


def undisturbed(folder: Path, **values: Any) -> dict[str, Any]:
    """What the same job ends with when nothing happens to it."""
    folder.mkdir()
    job = add_job(spec=spec_for(folder, **values), unlabeled_file=add_file(b"{}"))
    work()
    assert get_job(job).status == "succeeded"
    return result(job)

"""One run: a rig, a stream of jobs, a nemesis; then everything is healed, drained and checked."""

import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.status import TERMINAL
from tests.chaos.checker import POISON, Violation, check, recoveries
from tests.chaos.clients import KINDS, Client
from tests.chaos.history import History
from tests.chaos.nemesis import Nemesis
from tests.chaos.rig import Rig

EVERY_SECONDS = (1.5, 4.0)  # between two submits
DRAIN_SECONDS = 300.0
POISON_SHARE = 0.06


@dataclass(frozen=True)
class Outcome:
    history: History
    violations: list[Violation]
    faults: dict[str, int]
    seconds: float

    def summary(self) -> dict[str, Any]:
        found = sorted(seconds for _, _, seconds in recoveries(self.history))
        rank = min(len(found) - 1, int(0.99 * len(found))) if found else 0
        return {
            "seconds": round(self.seconds, 1),
            "faults": self.faults,
            "faults_injected": sum(self.faults.values()),
            "jobs": dict(Counter(job["status"] for job in self.history.jobs)),
            "jobs_meant_to_fail": sum(job["kind"] == POISON for job in self.history.jobs),
            "runners_started": sum(deed.what.startswith("start") for deed in self.history.deeds),
            "recoveries": len(found),
            "recovery_seconds_median": round(statistics.median(found), 2) if found else None,
            "recovery_seconds_p99": round(found[rank], 2) if found else None,
            "violations": [str(violation) for violation in self.violations],
        }


def chaos(
    seconds: float,
    seed: int,
    *,
    scaled: bool,
    bug: str = "",
    at_least: int = 0,
    say: Callable[[str], object] = lambda _: None,
) -> Outcome:
    """`seconds` of faults, and `at_least` so many of them; starting, draining and checking come on top."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="semift-chaos-") as folder, Rig(Path(folder), scaled=scaled, bug=bug) as rig:
        client = Client(rig, seed)
        references = undisturbed(rig, client)
        say(f"{len(references)} undisturbed jobs are the references; now {seconds:g} s of faults")
        nemesis, stop = Nemesis(rig, client, seed), threading.Event()
        stream = threading.Thread(target=submit_on, args=(client, seed, stop))
        stream.start()
        try:
            nemesis.run(seconds, stop, at_least=at_least)
        finally:
            stop.set()
            stream.join()
        say(f"{len(nemesis.faults)} faults, {len(client.jobs)} jobs; draining")
        drained(rig, DRAIN_SECONDS)
        history = rig.history()
        history.ops, history.references = client.ops, references
        history.faults += nemesis.faults
        violations = check(history)
        if violations:
            (Path(tempfile.gettempdir()) / f"semift-chaos-{seed}.log").write_text(rig.logs())
            history.write(Path(tempfile.gettempdir()) / f"semift-chaos-{seed}.json")
        return Outcome(history, violations, nemesis.counts(), time.monotonic() - began)


def undisturbed(rig: Rig, client: Client) -> dict[str, str]:
    """Kind -> what a job of it leaves when nothing happens to it."""
    for kind in KINDS:
        client.submit(kind)
    drained(rig, DRAIN_SECONDS)
    found = {job["kind"]: job["hash"] for job in rig.history().jobs if job["status"] == "succeeded"}
    if found.keys() != KINDS.keys():
        raise RuntimeError(f"undisturbed jobs did not succeed\n{rig.logs()[-3000:]}")
    return found


def submit_on(client: Client, seed: int, stop: threading.Event) -> None:
    die = random.Random(seed + 1)
    while not stop.is_set():
        client.submit(POISON if die.random() < POISON_SHARE else die.choice(tuple(KINDS)))
        stop.wait(die.uniform(*EVERY_SECONDS))


def drained(rig: Rig, seconds: float) -> bool:
    """Whether every job came to an end within `seconds`."""
    from sqlalchemy import text

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with rig.engine.connect() as connection:
            if rig.scaled:
                connection.exec_driver_sql("select set_config('semift.tenant', '*', false)")
            left = {row.status for row in connection.execute(text("select status from jobs"))}
        if left <= {str(status) for status in TERMINAL}:
            return True
        time.sleep(0.3)
    return False

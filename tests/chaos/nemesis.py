"""What goes wrong, chosen by a seeded die: each fault is a method that causes it, waits, and heals it.

The die decides the order, the pauses and the lengths. Which process has a job at that moment is the machine's choice, so a
seed repeats the plan and not the run.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kombu import Connection, Exchange, Queue

from tests.chaos.clients import Client
from tests.chaos.history import Fault
from tests.chaos.rig import API, LEASE_SECONDS, Rig
from worker.app import QUEUE, RING

PAUSE_SECONDS = (0.5, 2.5)
OUTAGE_SECONDS = (0.5, 4.0)
LEAVE_SECONDS = 120.0  # what a worker has that was told to
JUNK = ((b"\x80\x04N.", "application/x-python-serialize"), (b"{", "application/json"), (b'["../../etc/passwd"]', "text/plain"))


class Nemesis:
    """`faults` is what it did. At least one worker and never everybody is alive, so that what went wrong can be noticed."""

    def __init__(self, rig: Rig, client: Client, seed: int) -> None:
        self._rig, self._client, self._die = rig, client, random.Random(seed)
        self.faults: list[Fault] = []
        self.paused: set[str] = set()
        self._back: list[tuple[float, str]] = []  # when a killed process starts again
        embedded: dict[str, tuple[int, Callable[[], None]]] = {
            "kill_runner": (5, self.kill_runner),
            "kill_worker": (4, self.kill_worker),
            "kill_api": (2, self.kill_api),
            "term_worker": (2, self.term_worker),
            "stop_worker": (3, self.stop_worker),
            "stop_runner": (2, self.stop_runner),
            "lose_messages": (2, self.lose_messages),
            "forge_messages": (2, self.forge_messages),
            "cancel": (2, self.cancel),
            "pause": (2, self.pause),
            "http_reset": (1, lambda: self.proxy("http", "reset")),
            "http_blackhole": (1, lambda: self.proxy("http", "blackhole")),
            "http_cut": (1, lambda: self.proxy("http", f"cut:{self._die.choice((1, 200, 900))}")),
        }
        servers: dict[str, tuple[int, Callable[[], None]]] = {
            "redis_kill": (2, self.kill_redis),
            "redis_cut": (2, lambda: self.proxy("redis", self._die.choice(("reset", "refuse", "cut:2000")))),
            "redis_blackhole": (2, lambda: self.proxy("redis", "blackhole")),
            "postgres_cut": (2, lambda: self.proxy("postgres", self._die.choice(("reset", "refuse", "cut:5000")))),
            "postgres_blackhole": (2, lambda: self.proxy("postgres", "blackhole")),
            "postgres_delay": (1, lambda: self.proxy("postgres", "delay:0.05")),
            "postgres_backends": (2, self.end_backends),
            "postgres_kill": (1, self.kill_postgres),
        }
        self._table = embedded | (servers if rig.scaled else {})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._table)

    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(fault.name for fault in self.faults).items()))

    def run(self, seconds: float, stop: threading.Event, *, at_least: int = 0) -> None:
        """`at_least`: so many faults, however few of them a slow machine gets done in `seconds`."""
        weights = [weight for weight, _ in self._table.values()]
        end = time.monotonic() + seconds
        while (time.monotonic() < end or len(self.faults) < at_least) and not stop.is_set():
            self._wait(self._die.uniform(*PAUSE_SECONDS))
            name = self._die.choices(self.names, weights)[0]
            self._table[name][1]()
        self.heal()

    def heal(self) -> None:
        """Everything runs and answers again, and nothing is paused."""
        for proxy in self._rig.proxies.values():
            proxy.set("pass")
        for name in {name for _, name in self._back}:
            self._rig.processes[name].wait(LEAVE_SECONDS)
        self._back = []
        for name, process in self._rig.processes.items():
            if process.poll() is not None:
                self._rig.start(name, wait=False)
        for name in self._rig.processes:
            self._rig.until_ready(name)
        for job in self.paused:
            while self._client.tell(job, "resume") == "unknown":
                time.sleep(0.5)
        self.paused.clear()

    # --- faults of processes ---------------------------------------------------------------------------------------

    def kill_runner(self) -> None:
        if pids := [pid for name in self._workers() for pid in self._rig.children(name)]:
            self._kill("kill_runner", (self._die.choice(pids),))

    def kill_worker(self) -> None:
        if name := self._spare_worker():
            self._kill("kill_worker", (self._rig.processes[name].pid, *self._rig.children(name)), only_first=True)
            self._later(name)

    def kill_api(self) -> None:
        if API in self._rig.alive() and self._workers():
            self._kill("kill_api", (self._rig.processes[API].pid,))
            self._later(API)

    def term_worker(self) -> None:
        """A deployment: the worker hands its job back and leaves."""
        if name := self._spare_worker():
            at = time.time()
            self._rig.processes[name].terminate()
            self._later(name)
            self._note("term_worker", at)

    def stop_worker(self) -> None:
        """A machine that freezes for longer than its lease, and thaws."""
        if name := self._spare_worker():
            pids = (self._rig.processes[name].pid, *self._rig.children(name))
            self._freeze("stop_worker", pids, LEASE_SECONDS * self._die.uniform(1.2, 2.0))

    def stop_runner(self) -> None:
        """A computation that hangs for a while."""
        if pids := [pid for name in self._workers() for pid in self._rig.children(name)]:
            self._freeze("stop_runner", (self._die.choice(pids),), self._die.uniform(0.5, LEASE_SECONDS))

    # --- faults of servers and between ----------------------------------------------------------------------------

    def proxy(self, name: str, mode: str) -> None:
        at = time.time()
        self._rig.proxies[name].set(mode)
        self._wait(self._die.uniform(*OUTAGE_SECONDS))
        self._rig.proxies[name].set("pass")
        kind = mode.partition(":")[0]
        self._note(f"{name}_{kind if kind in ('blackhole', 'delay') or name == 'http' else 'cut'}", at)

    def kill_redis(self) -> None:
        at = time.time()
        self._rig.redis.kill()
        self._wait(self._die.uniform(*OUTAGE_SECONDS))
        self._rig.redis.start()
        self._note("redis_kill", at)

    def end_backends(self) -> None:
        at = time.time()
        assert self._rig.postgres
        self._rig.postgres.terminate_backends()
        self._note("postgres_backends", at)

    def kill_postgres(self) -> None:
        at = time.time()
        assert self._rig.postgres
        self._rig.postgres.kill()
        self._rig.postgres.start()
        self._note("postgres_kill", at)

    def lose_messages(self) -> None:
        at = time.time()
        if self._rig.scaled:
            with self._rig.redis.client() as client:
                client.flushall()
        else:
            for message in (self._rig.data_dir / "broker" / "queue").glob("*"):
                with suppress(FileNotFoundError):
                    message.unlink()
        self._note("lose_messages", at)

    def forge_messages(self) -> None:
        """Doorbells twenty times over, for jobs there are not, and bytes nobody should unpickle."""
        at, job = time.time(), self._client.some_job()
        with suppress(Exception), self._broker() as connection:
            queue = Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE)
            to = {"exchange": queue.exchange, "routing_key": queue.routing_key, "declare": [queue]}
            producer = connection.Producer()
            for name in [*([job] * 20 if job else []), "ftjob-nobody", "../../etc/passwd"]:
                headers = {"task": RING, "id": f"forged-{self._die.random()}"}
                producer.publish([[name], {}, {}], serializer="json", headers=headers, retry=False, **to)
            for body, content in JUNK:
                headers = {"task": RING, "id": "junk"}
                producer.publish(body, content_type=content, content_encoding="binary", headers=headers, retry=False, **to)
            self._note("forge_messages", at)

    def _broker(self) -> Connection:
        if self._rig.scaled:
            url = f"redis://127.0.0.1:{self._rig.redis.port}/0"
            return Connection(url, transport_options={"global_keyprefix": self._rig.broker_prefix, "max_retries": 0})
        folder = self._rig.data_dir / "broker"
        both = {"data_folder_in": folder / "queue", "data_folder_out": folder / "queue", "control_folder": folder / "control"}
        return Connection("filesystem://", transport_options={name: str(path) for name, path in both.items()})

    # --- what tenants do at the wrong moment ------------------------------------------------------------------------

    def cancel(self) -> None:
        if job := self._client.some_job():
            at = time.time()
            self._client.tell(job, "cancel")
            self._note("cancel", at)

    def pause(self) -> None:
        """Paused, and after a moment resumed; or by the next fault, or at the end."""
        if job := self._client.some_job():
            at = time.time()
            self._client.tell(job, "pause")
            self.paused.add(job)
            self._wait(self._die.uniform(0.0, 2.0))
            if self._client.tell(job, "resume") != "unknown":
                self.paused.discard(job)
            self._note("pause", at)

    # --- how ---------------------------------------------------------------------------------------------------------

    def _workers(self) -> list[str]:
        return [name for name in self._rig.alive() if name != API]

    def _spare_worker(self) -> str | None:
        """One that can be spared: another worker is ready. One that was told to leave is neither."""
        leaving = {name for _, name in self._back}
        ready = [name for name in self._workers() if name not in leaving and self._rig.ready(name)]
        return self._die.choice(ready) if len(ready) > 1 else None

    def _kill(self, name: str, pids: tuple[int, ...], *, only_first: bool = False) -> None:
        at = time.time()
        for pid in pids[:1] if only_first else pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._note(name, at, pids)

    def _freeze(self, name: str, pids: tuple[int, ...], seconds: float) -> None:
        at = time.time()
        stopped = [pid for pid in pids if _signal(pid, signal.SIGSTOP)]
        self._wait(seconds)
        for pid in stopped:
            _signal(pid, signal.SIGCONT)
        self._note(name, at, pids)

    def _later(self, name: str) -> None:
        self._back.append((time.monotonic() + self._die.uniform(0.0, 3.0), name))

    def _wait(self, seconds: float) -> None:
        """Meanwhile, those killed come back."""
        end = time.monotonic() + seconds
        while True:
            due = [entry for entry in self._back if entry[0] <= time.monotonic()]
            for entry in due:
                if self._rig.processes[entry[1]].poll() is not None:
                    self._back.remove(entry)
                    self._rig.start(entry[1], wait=False)
            if time.monotonic() >= end:
                return
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))

    def _note(self, name: str, at: float, pids: tuple[int, ...] = ()) -> None:
        self.faults.append(Fault(at, time.time(), name, pids))


def _signal(pid: int, number: int) -> bool:
    """A pid may have been given to somebody else meanwhile: only Python processes of this machine are signalled."""
    with suppress(OSError):
        if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, number)
            return True
    return False

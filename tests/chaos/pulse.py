"""Notices that the machine stood still: for a while nobody could be in time, and no promise of being so was broken.

Virtual machines do, for seconds, while their clocks go on. Whoever judges by clocks has to know.
"""

import threading
import time

from tests.chaos.history import STANDSTILL, Fault

BEAT_SECONDS = 0.2
LATE_SECONDS = 0.5  # more than a thread that shares its processor waits for its turn


class Pulse(threading.Thread):
    """`with Pulse() as pulse:`; `faults` are the standstills so far."""

    def __init__(self) -> None:
        super().__init__(name="chaos-pulse", daemon=True)
        self._over = threading.Event()
        self.faults: list[Fault] = []

    def run(self) -> None:
        began, at = time.monotonic(), time.time()
        while not self._over.wait(BEAT_SECONDS):
            if time.monotonic() - began > BEAT_SECONDS + LATE_SECONDS:
                self.faults.append(Fault(at, time.time(), STANDSTILL))
            began, at = time.monotonic(), time.time()

    def __enter__(self) -> "Pulse":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

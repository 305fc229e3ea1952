"""Celery's consumer, with patience: a broker that refuses is asked again after a while, longer each time, not at once.

Celery itself begins anew right away when a Redis without memory answers "no", a hundred times a minute, each time with a
line of the log. Jobs do not wait for any of this: workers find them in the database.
"""

import time

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

FIRST_SECONDS, MOST_SECONDS = 2.0, 15.0
CALM_SECONDS = 2 * MOST_SECONDS  # without a refusal for this long, it is a new one
LOOK_SECONDS = 0.2


class PatientConsumer(Consumer):  # type: ignore[misc]  # Celery says no types
    _refused_at, _pause = 0.0, FIRST_SECONDS

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        super().on_connection_error_before_connected(exc)
        self._rest()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._rest()

    def _rest(self) -> None:
        """Raises WorkerShutdown when the worker is told to go meanwhile."""
        now = time.monotonic()
        again = now - self._refused_at < CALM_SECONDS
        self._pause = min(2 * self._pause, MOST_SECONDS) if again else FIRST_SECONDS
        while time.monotonic() < now + self._pause:
            maybe_shutdown()
            time.sleep(LOOK_SECONDS)
        self._refused_at = time.monotonic()

"""A server that dies in the middle of a request."""

import os
import signal
import warnings
from collections.abc import Callable

from models import crash
from models.db import engine


def die(point: str, send: Callable[[], object]) -> None:
    """A copy of this process sends, and is killed at `point`."""
    engine().dispose()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads that the copy does not use
        pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(120)
            crash._WANTED = crash._wanted(point)
            send()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

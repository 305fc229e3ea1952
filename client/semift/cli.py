"""The command `semift`."""

import signal

from semift.app import Ended, app
from semift.commands import files, jobs, keys, results, server

COMMANDS = (files, jobs, results, server, keys)  # importing them registered their commands


def main() -> None:
    """Told to end (SIGTERM), a command ends as by ctrl-C: what it shows is closed and what it was writing is gone.

    A server that it has become (`semift up`) answers SIGTERM itself.
    """
    signal.signal(signal.SIGTERM, _end)
    app()


def _end(*_: object) -> None:
    raise Ended

"""The command `semift`."""

from semift.app import app
from semift.commands import files, jobs, results, server

COMMANDS = (files, jobs, results, server)  # importing them registered their commands


def main() -> None:
    app()

"""A runner as an operating-system process: started without secrets, spoken to over two pipes, killed as a group."""

import json
import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.settings import runner_environment

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]


class Runner:
    """A started runner process."""

    def __init__(self, command: Sequence[str], scratch: Path) -> None:
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        temporary = scratch / "tmp"
        temporary.mkdir()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=runner_environment() | offline | {"TMPDIR": str(temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        self.pid = self._process.pid

    def say(self, message: Mapping[str, Any]) -> None:
        """A runner that is gone hears nothing; that it is gone, `messages` and `wait` tell."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it has closed its end."""
        assert self._process.stdout
        for line in self._process.stdout:
            yield json.loads(line)

    def kill(self, grace_seconds: float) -> None:
        """SIGTERM to the whole group, SIGKILL after the grace; returns when the runner is gone. May be called twice."""
        if grace_seconds:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_seconds)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def kill_orphans(self) -> None:
        """A child that outlives a dead runner would hold its pipe open for ever."""
        if self._process.poll() is not None:
            self._signal(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status once it has ended, negative for a signal."""
        status = self._process.wait()
        self._signal(signal.SIGKILL)
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):  # an answer nobody read
            self._process.stdin.close()
        self._process.stdout.close()
        return status

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left in the group
            os.killpg(self.pid, number)

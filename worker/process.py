"""A runner as an operating-system process: started without secrets, spoken to over two pipes, killed as a group."""

import json
import logging
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from models.settings import runner_environment

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
PIECE_BYTES = 1 << 16
LOOK_SECONDS = 1.0  # how long a pipe may be silent before a look at whether its runner lives


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
            bufsize=0,
        )
        self.pid = self._process.pid

    def say(self, message: Mapping[str, Any]) -> None:
        """A runner that is gone hears nothing; that it is gone, `messages` and `wait` tell."""
        assert self._process.stdin
        line = memoryview((json.dumps(message) + "\n").encode())
        with suppress(BrokenPipeError):
            while line:
                line = line[self._process.stdin.write(line) :]

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it has closed its end, or is dead and silent: something else may hold the pipe open for ever."""
        assert self._process.stdout
        pipe, begun = self._process.stdout.fileno(), b""
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        while True:
            if ready.poll(LOOK_SECONDS * 1000):
                piece = os.read(pipe, PIECE_BYTES)
                if not piece:
                    break
                *lines, begun = (begun + piece).split(b"\n")
                for line in lines:
                    yield json.loads(line)
            elif self._process.poll() is not None:
                break
        if begun:  # it died in the middle of a word
            log.warning("the runner ended within a line of %d bytes", len(begun))

    def tell_to_stop(self) -> None:
        """It finishes its step or chunk, leaves a checkpoint and goes (runner.py)."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """The whole group, at once, also when it is stopped or hangs; returns when the runner is gone. May be called twice."""
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

"""`python -m tests.security.odd_reader`: a reader child whose work goes wrong in every way that files and parsers have."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from worker.parse_child import main


def _spin() -> None:
    while True:
        pass


def _eat() -> None:
    held = []
    while True:
        held.append(bytes(1 << 24))


def _unpickle() -> None:
    pickle.loads(pickle.dumps(Path("x")))


ODD: dict[str, Callable[[], Any]] = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "bug": lambda: {}["a row of data"],
    "spin": _spin,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda: time.sleep(600),
    "eat": _eat,
    "leave": lambda: os._exit(3),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "resolve": lambda: socket.getaddrinfo("localhost", 80),
    "run": lambda: subprocess.run(["true"], check=True),
    "system": lambda: os.system("true"),
    "fork": os.fork,
    "write": lambda: Path("/tmp/reader-wrote-this").write_text("x"),
    "unpickle": _unpickle,
    "environment": lambda: dict(os.environ),
    "descriptors": lambda: len(list(Path("/proc/self/fd").iterdir())),
    "pid": os.getpid,
    "links": lambda: [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]],
    "long": lambda: "x" * (70 << 20),
}


def work(name: str) -> Callable[[Sequence[BinaryIO], Any], Any]:
    return lambda files, given: ODD[name]()


if __name__ == "__main__":
    sys.exit(main({name: work(name) for name in ODD}))

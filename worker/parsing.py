"""Has uploads read in a child (worker/parse_child.py): nothing a client sends is parsed in the process that serves others.

What comes back is JSON: a report, a page of a preview, findings. A file that kills its reader, or takes more memory or time
than its size allows, is that file's fault and says so; a reader that cannot be started is ours.
"""

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, BinaryIO

from models.blobs import blobs
from models.settings import runner_environment, settings
from worker.semisup.errors import DataError, DatasetRejected
from worker.semisup.ingest.findings import Finding, IngestOptions
from worker.semisup.ingest.tally import Stats
from worker.semisup.ingest.validate import Preview, Validation

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "worker.parse_child")
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # address space is short
MEMORY_BYTES = 1 << 30  # of address space; libraries take 300 MB of it
CPU_SECONDS = 20.0  # and one more for every MB
WALL_PER_CPU = 3.0  # other readers, and the trainer on the same machine, want the processor too
AT_ONCE = 4  # readers, or as many as there are processors: a large file in the background holds up no small one
ANSWER_BYTES = 64 << 20
MARGIN_SECONDS = 10.0  # for the watcher to act; after that the whole child is not trusted any more
MB = 1 << 20


class ReaderAway(Exception):
    """No child could be started, or it went away while it was asked: nothing is said about the file."""


class Unreadable(DataError):
    """A file that cannot be read within limits, or that ended its reader."""


@dataclass(frozen=True)
class Source:
    """A stored upload, and what its uploader said of it."""

    sha256: str
    filename: str
    options: Mapping[str, Any]


class Readers:
    """One child that forks a reader for each request. Safe for threads, a few of which are served at once."""

    def __init__(
        self, command: Sequence[str] = COMMAND, *, memory_bytes: int = MEMORY_BYTES, cpu_seconds: float = CPU_SECONDS
    ) -> None:
        self._command, self._memory_bytes, self._cpu_seconds = tuple(command), memory_bytes, cpu_seconds
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(max(AT_ONCE, os.cpu_count() or 1))
        self._child: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def ask(self, work: str, files: Sequence[BinaryIO], given: Mapping[str, Any]) -> Any:
        """What `work` (a key of parse_child.WORK) says of `files`. Raises DataError for the files, ReaderAway for us."""
        size = sum(os.fstat(file.fileno()).st_size for file in files)
        cpu = self._cpu_seconds + size / MB
        limits = {"seconds": cpu * WALL_PER_CPU, "cpu_seconds": cpu, "memory_bytes": self._memory_bytes}
        request = {"work": work, "limits": limits, "given": dict(given)}
        with self._turns:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    self._send([theirs.fileno(), *(file.fileno() for file in files)])
                ours.settimeout(limits["seconds"] + MARGIN_SECONDS)
                try:
                    ours.sendall(json.dumps(request).encode() + b"\n")
                    lines = _receive(ours).split(b"\n")
                except OSError as problem:
                    raise ReaderAway(f"the reader of uploads went away: {problem}") from None
        return _answer(lines, given["names"], limits)

    def close(self) -> None:
        """Ends the child. Another request starts a new one."""
        with self._lock:
            self._end()

    def _send(self, descriptors: list[int]) -> None:
        with self._lock:
            for _ in range(2):  # a child that was killed is found out when it is written to
                if self._control is None:
                    self._start()
                assert self._control
                try:
                    socket.send_fds(self._control, [b"r"], descriptors)
                except OSError:
                    self._end()
                else:
                    return
        raise ReaderAway("the reader of uploads cannot be started; the log of this process says why")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A session of its own: ctrl-C is for the server. It sees no URL and no key, like a runner.
            self._child = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=runner_environment() | ENVIRONMENT | {"TMPDIR": tempfile.gettempdir()},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control = ours

    def _end(self) -> None:
        if self._control:
            self._control.close()
        if self._child:
            self._child.kill()
            self._child.wait()
        self._child = self._control = None


@lru_cache
def readers() -> Readers:
    made = Readers()
    atexit.register(made.close)
    return made


def report(source: Source) -> Validation:
    """The report on a file; of one that could not be read within limits too. Raises BlobError, ReaderAway."""
    try:
        return Validation.model_validate(_ask("validate", [source], max_rows=settings().max_rows))
    except Unreadable as problem:
        found = Finding(code=problem.code, message=problem.message, fix=problem.hint)
        return Validation(
            status="failed", format=None, layout=None, columns=[], mapping={}, rows=0, labeled=0, unlabeled=0,
            errors=[found], error_counts={found.code: 1}, warnings=[], stats=Stats(),
            sha256=source.sha256, bytes=blobs().size(source.sha256),
        )  # fmt: skip


def page(source: Source, limit: int, offset: int) -> Preview:
    """Raises DataError where the file cannot be read, BlobError, ReaderAway."""
    return Preview.model_validate(_ask("preview", [source], limit=limit, offset=offset))


def compare(sources: Mapping[str, Source], allow: Sequence[str]) -> tuple[Finding, ...]:
    """What is wrong between the files of a job: `ingest.load.check_split`. `sources` by role: labeled, unlabeled, test, …"""
    found = _ask("compare", list(sources.values()), roles=list(sources), allow=list(allow))
    return tuple(Finding.model_validate(finding) for finding in found)


def seen(
    judged: Mapping[str, Source], learned: Sequence[Source], unlabeled: Sequence[Source], spec: Mapping[str, Any]
) -> tuple[Finding, ...]:
    """Warnings on held-out rows against those an adapter comes from: its `learned` labeled files, its `unlabeled` ones.

    Raises DataError where `worker.semisup.start.without_seen` refuses.
    """
    roles = [*judged, *("learned" for _ in learned), *("unlabeled" for _ in unlabeled)]
    found = _ask("seen", [*judged.values(), *learned, *unlabeled], roles=roles, spec=dict(spec))
    return tuple(Finding.model_validate(finding) for finding in found)


def _ask(work: str, sources: Sequence[Source], **given: Any) -> Any:
    options = [IngestOptions.of(source.options).model_dump(mode="json") for source in sources]
    given |= {"names": [source.filename for source in sources], "options": options}
    with ExitStack() as stack:
        return readers().ask(work, [_open(source.sha256, stack) for source in sources], given)


def _open(sha256: str, stack: ExitStack) -> BinaryIO:
    """The blob as a file with a descriptor: an object store's comes by way of the disk."""
    file = stack.enter_context(blobs().open(sha256))
    try:
        file.fileno()
    except (AttributeError, OSError, UnsupportedOperation):
        spool = settings().data_dir.resolve() / "spool"
        spool.mkdir(parents=True, exist_ok=True)
        local = tempfile.TemporaryFile(dir=spool)  # noqa: SIM115 (the stack closes it)
        stack.enter_context(local)
        shutil.copyfileobj(file, local)
        local.flush()
        return local
    return file


def _receive(connection: socket.socket) -> bytes:
    read = bytearray()
    while piece := connection.recv(1 << 16):
        read += piece
        if len(read) > ANSWER_BYTES:
            raise OSError("its answer is too long")
    return bytes(read)


def _answer(lines: Sequence[bytes], names: Sequence[str], limits: Mapping[str, float]) -> Any:
    message: dict[str, Any] = {}
    end = None
    with suppress(ValueError, IndexError):
        end = json.loads(lines[-2]).get("end")  # the watcher's; the reader's own line, if it is whole, comes before
        message = json.loads(lines[0]) if end == "done" else {}
    if end is None:
        raise ReaderAway("the reader of uploads went away")
    if refused := message.get("refused"):
        kind = DatasetRejected if refused.pop("file") else DataError
        raise kind(**refused)
    if "answer" in message:
        return message["answer"]
    raise _unreadable(message.get("failed") or end, ", ".join(repr(name) for name in names[:3]), limits)


def _unreadable(end: str, names: str, limits: Mapping[str, float]) -> Unreadable:
    if end == "time":
        message = f"Reading {names} took more than {limits['cpu_seconds']:.0f} s of computing time."
        return Unreadable(message, code="too_slow_to_read", hint="Split the file, or upload the rows as JSONL.")
    if end == "memory":
        message = f"Reading {names} took more than {limits['memory_bytes'] / MB:.0f} MB of memory."
        return Unreadable(message, code="too_large_to_read", hint="Split the file, or upload the rows as JSONL.")
    message = f"Reading {names} made its reader fail ({end})."
    return Unreadable(message, code="reader_failed", hint="Write the file again with another program, or upload JSONL.")

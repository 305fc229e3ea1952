"""`python -m worker.parse_child`: reads what clients upload, each file in a process of its own that may die of it.

This process imports the readers once, lives in a network namespace of its own where the kernel allows one, and forks twice
for every request: a watcher, and under it the reader. The reader has limits on memory, CPU time and file sizes, and an
audit hook that refuses to open connections, write files, start programs or unpickle; the watcher kills its process group
at the deadline or when whoever asked has gone. Nothing of one file is left for the next, answers are JSON, and no traceback
is printed: it could hold rows. Started and asked by worker/parsing.py. Neither database, blob store nor torch is known here.
"""

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from worker.semisup.data import Example, Query, Split
from worker.semisup.errors import DatasetRejected, SemisupError
from worker.semisup.ingest.findings import Finding
from worker.semisup.ingest.load import check_split, read_labeled, read_unlabeled
from worker.semisup.ingest.validate import preview, validate
from worker.semisup.spec import load_spec
from worker.semisup.start import without_seen

Given = Mapping[str, Any]
Work = Callable[[Sequence[BinaryIO], Given], Any]

MAX_FILES = 240  # descriptors that travel with one request
OPEN_FILES = 512
FILE_BYTES = 8 << 30  # of a temporary file (the rows seen so far)
NICE = 5  # the server that waits comes first
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG = 1
# The first words of audit events nothing in a reader may cause.
FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pickle.", "shutil.")


def _validate(files: Sequence[BinaryIO], given: Given) -> Any:
    name, options = given["names"][0], given["options"][0]
    return validate(files[0], name, options, max_rows=given.get("max_rows", 0)).model_dump(mode="json")


def _preview(files: Sequence[BinaryIO], given: Given) -> Any:
    return preview(files[0], given["names"][0], given["options"][0], given["limit"], given["offset"]).model_dump(mode="json")


def _compare(files: Sequence[BinaryIO], given: Given) -> Any:
    rows: dict[str, Sequence[Example]] = {}
    queries: tuple[Query, ...] = ()
    for role, file, name, options in zip(given["roles"], files, given["names"], given["options"], strict=True):
        if role == "unlabeled":
            queries, _ = read_unlabeled(file, name, options)
        else:
            rows[role] = read_labeled(file, name, options, role[0])
    found = check_split(
        rows["labeled"], queries, rows.get("test", ()), validation=rows.get("validation", ()), allow=given["allow"]
    )
    return [finding.model_dump(mode="json", exclude_none=True) for finding in found]


def _seen(files: Sequence[BinaryIO], given: Given) -> Any:
    judged: dict[str, tuple[Example, ...]] = {}
    learned: list[tuple[str, tuple[Example, ...]]] = []
    unlabeled: list[tuple[str, tuple[Query, ...]]] = []
    for role, file, name, options in zip(given["roles"], files, given["names"], given["options"], strict=True):
        if role == "unlabeled":
            unlabeled.append((name, read_unlabeled(file, name, options)[0]))
        elif role == "learned":
            learned.append((name, read_labeled(file, name, options)))
        else:
            judged[role] = read_labeled(file, name, options, role[0])
    split = Split((), (), judged.get("test", ()), judged.get("validation", ()))
    split, notes = without_seen(load_spec(given["spec"]), split, learned)
    found = [Finding(code="test_leakage", message=note, severity="warning") for note in notes]
    found += [finding for name, queries in unlabeled for finding in _pseudo_labeled(split, name, queries)]
    return [finding.model_dump(mode="json", exclude_none=True) for finding in found]


def _pseudo_labeled(split: Split, name: str, queries: Sequence[Query]) -> list[Finding]:
    """Held-out rows that an earlier job had without labels, in the words for a job's own unlabeled file."""
    told = f"The unlabeled file is {name} of an earlier job: its adapter may have learned pseudo-labels of these rows."
    return [
        finding.model_copy(update={"message": f"{finding.message} {told}", "fix": "Scores on these rows may be too high."})
        for finding in check_split((), queries, split.held_out, validation=split.validation)
        if finding.code.startswith("unlabeled_in_")
    ]


WORK: Mapping[str, Work] = {"validate": _validate, "preview": _preview, "compare": _compare, "seen": _seen}


def main(work: Mapping[str, Work] = WORK) -> int:
    """Stdin is a socket: one byte and the descriptors (a connection, then the files) for each request. Ends with its parent."""
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers are not waited for
    _leave_the_network()
    while True:
        byte, descriptors, _, _ = socket.recv_fds(control, 1, MAX_FILES + 1)
        if not byte:
            return 0
        if os.fork() == 0:
            control.close()
            os._exit(_watch(descriptors, work))
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(descriptors: Sequence[int], work: Mapping[str, Work]) -> int:
    _die_with_the_parent()
    os.setsid()
    connection = socket.socket(fileno=descriptors[0])
    request = json.loads(_line(connection))
    bell, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring)
    reader = os.fork()
    if reader == 0:
        os.close(bell)
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)
        os._exit(_read(connection, descriptors[1:], request, work))
    with suppress(OSError):  # the reader has done it, or is gone
        os.setpgid(reader, reader)
    over = _over(reader, bell, connection.fileno(), request["limits"]["seconds"])
    with suppress(ProcessLookupError):
        os.killpg(reader, signal.SIGKILL)  # what it started, if it managed to, and itself when it is late
    _, status = os.waitpid(reader, 0)
    end = "time" if not over else _how(os.waitstatus_to_exitcode(status))
    with suppress(OSError):  # nobody waits any more
        connection.sendall(f"\n{json.dumps({'end': end})}\n".encode())
    return 0


def _over(reader: int, bell: int, connection: int, seconds: float) -> bool:
    """Whether the reader ended within `seconds`, or whoever asked went. One that is stopped and goes on rings as well."""
    until = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([bell, connection], [], [], max(0.0, until - time.monotonic()))
        if not ready or connection in ready:
            return bool(ready)
        os.read(bell, 1 << 10)
        if sys.platform != "linux" or os.waitid(os.P_PID, reader, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True


def _how(status: int) -> str:
    if status == -signal.SIGXCPU:
        return "time"
    if status in (-signal.SIGKILL, os.EX_TEMPFAIL):
        return "memory"
    return "done" if status == 0 else signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _read(connection: socket.socket, descriptors: Sequence[int], request: Given, work: Mapping[str, Work]) -> int:
    _die_with_the_parent()
    _limit(request["limits"])
    sys.addaudithook(_refuse)
    try:
        try:
            files = [os.fdopen(descriptor, "rb") for descriptor in descriptors]
            answer = {"answer": work[request["work"]](files, request["given"])}
        except MemoryError:
            return os.EX_TEMPFAIL
        except SemisupError as problem:
            answer = {"refused": _refusal(problem)}
        except Exception as problem:
            frame = traceback.extract_tb(problem.__traceback__)[-1]
            answer = {"failed": f"{type(problem).__name__} in {frame.name}"}
        connection.sendall(json.dumps(answer).encode())
    except MemoryError:
        return os.EX_TEMPFAIL
    except OSError:
        return os.EX_IOERR
    return 0


def _refusal(problem: SemisupError) -> dict[str, Any]:
    return {
        "file": isinstance(problem, DatasetRejected),
        "message": problem.message,
        "code": problem.code,
        "param": problem.param,
        "line": problem.line,
        "hint": problem.hint,
    }


def _limit(limits: Given) -> None:
    seconds = int(limits["cpu_seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would be a copy of the rows
    os.nice(NICE)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event.startswith(FORBIDDEN):
        raise PermissionError(f"a reader of uploads may not do this: {event}")


def _leave_the_network() -> None:
    """An empty network namespace for this process and its children; where the kernel refuses, the audit hook is left."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if libc.unshare(CLONE_NEWNET) != 0:
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)


def _die_with_the_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _line(connection: socket.socket) -> bytes:
    read = bytearray()
    while not read.endswith(b"\n"):
        piece = connection.recv(1 << 16)
        if not piece:
            raise SystemExit(0)  # whoever asked is gone
        read += piece
    return bytes(read)


if __name__ == "__main__":
    sys.exit(main())

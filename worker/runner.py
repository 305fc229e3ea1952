"""`python -m worker.runner`: one job's computation, in a process of its own that can be killed at any time.

Started by worker/supervisor.py, which sends an order as the first line of stdin and then answers the questions of
worker/keep.py. The environment holds no URL and no key, and nothing is downloaded. Torch is imported here and nowhere else
in the service.
"""

import ctypes
import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.keep import NothingToDo, Pipe, PipeKeep, open_pipe
from worker.semisup.errors import SemisupError, Stopped

Order = Mapping[str, Any]  # what supervisor.order() writes
PR_SET_PDEATHSIG = 1
DEFAULT_CHUNK_SIZE = 64


def main(run: Callable[[Order, PipeKeep], None] | None = None) -> int:
    """Exit status 0 when the worker was told how it ended. `run` is the job; tests put a shorter one in its place."""
    _die_with_the_worker()
    pipe = open_pipe()
    try:
        order = pipe.read()
        if os.getppid() != order["worker_pid"]:
            return 1  # the worker died before its death could reach us
        chunk_size = order["spec"].get("propagation", {}).get("chunk_size", DEFAULT_CHUNK_SIZE)
        keep = PipeKeep(pipe, Path(order["scratch"]), chunk_size=chunk_size, assist=order["assist"])
        _tell_how_it_ends(pipe, lambda: (run or run_semisup)(order, keep))
    except Stopped:
        return 1
    return 0


def run_semisup(order: Order, keep: PipeKeep) -> None:
    from worker.semisup.inputs import Source, load_inputs  # torch takes seconds, and a wrong order needs none of them
    from worker.semisup.job import run_job
    from worker.semisup.lm import Lab
    from worker.semisup.spec import load_spec

    spec = load_spec(order["spec"])
    files = {
        role: Source(Path(file["path"]), file["filename"], file["options"]) for role, file in order["files"].items() if file
    }
    held_out = files.get("test") or files.get("validation")
    inputs = load_inputs(spec, files["labeled"], files.get("unlabeled"), held_out)
    if not order["assist"]:
        for note in inputs.notes:
            keep.note(note)
    cache = Path(order["cache"])
    with _alone(cache):  # two runners must not build the bundled LM into one folder
        lab = Lab(
            order["base"],
            name=order["name"],
            cache=cache,
            device=order["device"],
            threads=order["threads"],
            tick=keep.tick,
        )
    run_job(spec, inputs.split, lab=lab, keep=keep, gold=inputs.gold, notes=inputs.notes)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tell_how_it_ends(pipe: Pipe, job: Callable[[], None]) -> None:
    try:
        job()
    except NothingToDo:
        pipe.tell(tell="finished")
    except Stopped:
        raise
    except SemisupError as problem:
        traceback.print_exc()
        pipe.tell(tell="failed", error=_wire(problem))
    except Exception as problem:
        traceback.print_exc()
        pipe.tell(tell="failed", error=_unexpected(problem))
    else:
        pipe.tell(tell="finished")


def _wire(problem: SemisupError) -> dict[str, Any]:
    error = {"code": problem.code, "message": problem.message, "param": problem.param, "hint": problem.hint}
    return error if problem.line is None else {**error, "line": problem.line}


def _unexpected(problem: Exception) -> dict[str, Any]:
    """Out of memory is the operator's or the spec's matter; anything else is a bug of ours, its trace is in the log."""
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        hint = "Lower hyperparameters.micro_batch_size or max_length, or run it on a larger device."
        return {"code": "out_of_memory", "message": "The job ran out of memory.", "param": None, "hint": hint}
    message = f"The job stopped on an unexpected {type(problem).__name__}; the worker's log holds the details."
    return {"code": "internal_error", "message": message, "param": None, "hint": None}


def _die_with_the_worker() -> None:
    """Linux kills this process when the thread that started it ends. Elsewhere the closed pipe does it, a little later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m worker.runner`: one job's computation, in a process of its own that can be killed at any time.

Started by worker/supervisor.py, which sends an order as the first line of stdin and then answers the questions of
worker/keep.py. The environment holds no URL and no key, and nothing is downloaded. Torch is imported here and nowhere else
in the service.
"""

import ctypes
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import logs
from models.crash import crash_point
from worker.keep import Level, NothingToDo, Pipe, PipeKeep, open_pipe
from worker.room import out_of_room
from worker.semisup.data import Folder
from worker.semisup.errors import NonFiniteLoss, SemisupError, Stopped
from worker.semisup.shelf import Every

if TYPE_CHECKING:
    from worker.semisup.job import Outcome

log = logging.getLogger(__name__)

Order = Mapping[str, Any]  # what supervisor.order() writes
PR_SET_PDEATHSIG = 1
DEFAULT_CHUNK_SIZE = 64
LAST_GOOD = "last-good"


def main(run: Callable[[Order, PipeKeep], None] | None = None) -> int:
    """Exit status 0 when the worker was told how it ended. `run` is the job; tests put a shorter one in its place."""
    _die_with_the_worker()
    pipe = open_pipe()
    logs.start("runner")
    try:
        order = pipe.read()
        if os.getppid() != order["worker_pid"]:
            return 1  # the worker died before its death could reach us
        logs.note(job_id=order["job"], tenant=order["tenant"])
        crash_point("order.read")
        chunk_size = order["spec"].get("propagation", {}).get("chunk_size", DEFAULT_CHUNK_SIZE)
        keep = PipeKeep(
            pipe,
            Path(order["scratch"]),
            chunk_size=chunk_size,
            assist=order["assist"],
            every=Every(**order["checkpoints"]),
            tag=f"{order['job']}/t{order['token']}",
        )
        _stop_when_told(keep)
        _tell_how_it_ends(pipe, keep, lambda: (run or run_semisup)(order, keep))
    except Stopped:
        return 1
    return 0


def run_semisup(order: Order, keep: PipeKeep) -> None:
    from worker.semisup.inputs import Source, load_inputs  # torch takes seconds, and a wrong order needs none of them
    from worker.semisup.job import run_job
    from worker.semisup.lengths import check_responses
    from worker.semisup.lm import Lab
    from worker.semisup.outside import open_outside
    from worker.semisup.spec import load_spec
    from worker.semisup.start import answered_from_memory, go_on

    spec = load_spec(order["spec"])
    files = {
        role: Source(Path(file["path"]), file["filename"], file["options"]) for role, file in order["files"].items() if file
    }
    inputs = load_inputs(spec, files["labeled"], files.get("unlabeled"), files.get("test"), files.get("validation"))
    start, split, notes = None, inputs.split, list(inputs.notes)
    if before := order["start"]:
        learned = [Source(Path(file["path"]), file["filename"], file["options"]) for file in before["trained_on"]]
        start, split, more = go_on(spec, split, Path(before["path"]), before["job"], learned)
        notes += more
    with open_outside(order["outside"]) as outside:
        lab = Lab(
            order["base"],
            name=order["name"],
            cache=Path(order["cache"]),
            device=order["device"],
            threads=order["threads"],
            tick=keep.tick,
            shelf=keep.shelf,
            outside=outside,
        )
        for name in outside.lms:
            lab.beside(name)
        check_responses(lab, inputs, files["labeled"])
        memory, more = answered_from_memory(spec, split, outside)
        notes += more
        if not order["assist"]:
            for note in notes:
                keep.note(note)
        fork = order["fork"]
        outcome = run_job(
            spec,
            split,
            lab=lab,
            keep=keep,
            gold=inputs.gold,
            notes=notes,
            shared=inputs.shared,
            start=start,
            learned=memory,
            late_notes=lambda: [*([f"{keep.taken_over()} taken over from {fork['job']}."] if fork else []), *keep.halved()],
        )
    tell_what_was_found(order, keep, outcome)


def tell_what_was_found(order: Order, keep: PipeKeep, outcome: "Outcome") -> None:
    """Whether unlabeled data helped, and which adapter is kept. Of a job without unlabeled rows nobody asked it."""
    reason = outcome.decision.reason
    if not order["assist"] and reason != "no_unlabeled":
        level: Level = "warn" if reason == "worse" else "info"  # worse: the adapter of the job's name is the labels-only one
        keep.note(str(outcome.report.body["summary"]), level)


def _stop_when_told(keep: PipeKeep) -> None:
    """SIGTERM: the step or the chunk is finished, a checkpoint left. Until now there was nothing to lose."""

    def stop(_number: int, _frame: object) -> None:
        keep.shelf.stop = True

    signal.signal(signal.SIGTERM, stop)


def keep_last_good(keep: PipeKeep, problem: NonFiniteLoss) -> None:
    """What a training had before its numbers went wrong, else the newest adapter of the job, becomes an artefact."""
    good = problem.last_good or keep.shelf.adapter
    if good is None:
        return
    folder = keep.scratch / LAST_GOOD
    shutil.copytree(good.path, folder / f"{LAST_GOOD}-adapter")
    keep(LAST_GOOD, lambda: Folder(str(folder), good.sha256))
    keep.note(f"The last good adapter, {good.steps} steps of {problem.stage} or of a stage before it, is kept as an artefact.")


def _tell_how_it_ends(pipe: Pipe, keep: PipeKeep, job: Callable[[], None]) -> None:
    try:
        job()
        crash_point("job.done")
    except NothingToDo:
        pipe.tell(tell="finished")
    except Stopped:
        if not keep.shelf.stop:
            raise
        pipe.tell(tell="stopped")
    except SemisupError as problem:
        log.exception("the job was refused")
        if isinstance(problem, NonFiniteLoss):
            keep_last_good(keep, problem)
        pipe.tell(tell="failed", error=_wire(problem), again=problem.again)
    except Exception as problem:
        log.exception("the job stopped on an unexpected error")
        pipe.tell(tell="failed", error=_unexpected(problem))
    else:
        pipe.tell(tell="finished")


def _wire(problem: SemisupError) -> dict[str, Any]:
    error = {"code": problem.code, "message": problem.message, "param": problem.param, "hint": problem.hint}
    return error if problem.line is None else {**error, "line": problem.line}


def _unexpected(problem: Exception) -> dict[str, Any]:
    """Out of memory is the operator's or the spec's matter; anything else is a bug of ours, its trace is in the log.

    A full disk is neither: the worker gives the job back and counts nothing (supervisor.py).
    """
    if out_of_room(problem):
        return {"code": "storage_full", "message": "The runner has no room on its disk.", "param": None, "hint": None}
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":  # torch's, unimported
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

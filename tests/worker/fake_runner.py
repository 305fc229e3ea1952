"""A runner whose job has the shape of the real one and takes milliseconds: stages, chunks, an adapter, artefacts, no torch.

The job's spec says how it behaves: items, seconds a chunk and a training step take, one fault (`fault`), and lines at which
it is held (`holds`). What it computes depends on the spec alone. It writes what it does to spec["log"], one line each.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.keep import PipeKeep
from worker.runner import Order, main
from worker.semisup.data import Adapter, Folder, Report, Sample, Selection, Vote
from worker.semisup.errors import DataError, EngineAway, NonFiniteLoss, Stopped
from worker.semisup.keep import file_sha256

STEPS = 5
COMPANY_SECONDS = 120.0


def job(order: Order, keep: PipeKeep) -> None:
    spec = order["spec"]
    note(order, "start assist" if order["assist"] else "start")
    print("a library that prints to stdout does no harm")  # noqa: T201
    if spec.get("fault") == "bad data":
        raise DataError("Row 3 has no text.", code="empty_text", param="training_file", line=3, hint="Fill it in.")
    if spec.get("fault") == "bug":
        raise ZeroDivisionError
    if spec.get("fault") == "memory":
        raise MemoryError
    if spec.get("fault") == "kill":
        os.kill(os.getpid(), 9)
    if spec.get("fault") == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if spec.get("fault") == "child":
        note(order, f"child {subprocess.Popen(['sleep', '3600']).pid}")
    if spec.get("fault") == "no room" and lines_of(order, "start") <= 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if spec.get("environment"):
        Path(spec["environment"]).write_text(json.dumps(dict(os.environ)))
    scratch = Path(order["scratch"])
    first = keep.within("round-1")
    first("warmup", lambda: train(order, keep, "warmup"))
    votes = first.map("propagate", range(spec["items"]), lambda part: infer(order, keep, part))
    selection = first("select", lambda: choose(votes))
    first("evolve", lambda: train(order, keep, f"evolve {selection.selected}"))
    report = keep("report", lambda: Report({"accuracy": 0.5, "seconds": sorted(keep.seconds())}))
    if spec.get("copies"):
        note(order, f"left {copies(scratch)}")
    keep("artifacts", lambda: write(scratch / "results", report))


def train(order: Order, keep: PipeKeep, text: str) -> Adapter:
    """Goes on from its newest checkpoint. The weights say which steps were taken, and in which order."""
    reach(order, keep, f"begin {text}")
    done, shelf = went_on(keep, text), keep.shelf
    saved = len(done)
    for step in range(len(done) + 1, STEPS + 1):
        shelf.alive("step")
        if order["spec"].get("fault") == f"no number in {text.split()[0]}" and step == 4:
            raise NonFiniteLoss(shelf.stage, step)
        reach(order, keep, f"step {step} of {text}")
        if order["spec"].get("fault") == f"hangs at step {step}":
            time.sleep(3600)
        time.sleep(order["spec"].get("step_seconds", 0))
        done.append(step)
        if step < STEPS and (shelf.every.due(0, step - saved, 0) or shelf.stopping()):
            save(keep, done)
            saved = step
        keep.tick(step, STEPS, loss=1.0 / step, broken=float("nan"))
        if shelf.stopping() and step < STEPS:
            raise Stopped("told to")
    folder = Path(tempfile.mkdtemp(prefix="adapter-"))  # as the real one does (lm.py)
    (folder / "adapter_model.safetensors").write_text(f"{text} {done}")
    note(order, f"end {text}")
    return Adapter(str(folder), "lora", "0" * 64, STEPS, 70, 0.2)


def save(keep: PipeKeep, done: Sequence[int]) -> None:
    folder = keep.shelf.room(len(done))
    mark = {"tag": keep.shelf.tag, "stage": keep.shelf.stage, "done": list(done)}
    (folder / "state.json").write_text(json.dumps(mark))
    files = {"state.json": {"sha256": file_sha256(folder / "state.json"), "bytes": (folder / "state.json").stat().st_size}}
    (folder / "manifest.json").write_text(json.dumps({"type": "Checkpoint", "files": files}))
    keep.shelf.put(len(done), folder)


def went_on(keep: PipeKeep, text: str) -> list[int]:
    for step, folder in keep.shelf.found():
        done: list[int] = json.loads((folder / "state.json").read_text())["done"]
        assert len(done) == step, text
        return done
    return []


def infer(order: Order, keep: PipeKeep, part: Sequence[int]) -> list[Vote]:
    keep.shelf.alive("batch")
    reach(order, keep, f"begin chunk {part[0]}")
    if "company" in order["spec"]:
        wait_for_company(order, order["spec"]["company"])
    if order["assist"]:
        reach(order, keep, "assist in a chunk")
    if order["spec"].get("fault") == f"hangs at chunk {part[0]}":
        time.sleep(3600)
    if order["spec"].get("fault") == "engine" and part[0] >= 3:
        raise EngineAway("big", "status 503: no GPU left")
    time.sleep(order["spec"].get("chunk_seconds", 0))
    note(order, f"end chunk {part[0]}")
    return [Vote("a", f"answer \x00 {item}", str(item % 3), 0.1 * item, 2) for item in part]


def wait_for_company(order: Order, runners: int) -> None:
    """Until this many runners have begun a chunk: however slow the machine is, they share the stage."""
    end = time.monotonic() + COMPANY_SECONDS
    while (
        len({line.split()[0] for line in Path(order["spec"]["log"]).read_text().splitlines() if "begin chunk" in line})
        < runners
    ):
        assert time.monotonic() < end, f"{runners} runners never met"
        time.sleep(0.05)


def choose(votes: Sequence[Vote]) -> Selection:
    samples = tuple(
        Sample(
            query_id=f"u-{number:06d}",
            round=1,
            prompt=f"question {number}",
            pseudo_response=vote.response,
            pseudo_label=vote.answer,
            mean_nll=vote.mean_nll,
            agreement=1.0,
            resolved_by="agreement",
            verdict="selected" if number % 2 == 0 else "rejected",
            reason="below the cut" if number % 2 == 0 else "above the cut",
            neighbours=(("l-000001", 0.9),),
            votes=(vote,),
        )
        for number, vote in enumerate(votes)
    )
    selected = sum(sample.verdict == "selected" for sample in samples)
    return Selection(samples, 0.5, selected, len(samples) - selected, {"above the cut": len(samples) - selected})


def write(folder: Path, report: Report) -> Folder:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"evolved")
    (folder / "report.json").write_text(json.dumps(dict(report.body)))
    return Folder(str(folder), "0" * 64)


def reach(order: Order, keep: PipeKeep, what: str) -> None:
    """A line of the log. Whoever writes one of `holds` for the first time stays there, however slow or fast the machine is:
    until it is told to stop, let go (working.py) or killed."""
    note(order, what)
    if what in order["spec"].get("holds", ()) and lines_of(order, what) == 1:
        while not keep.shelf.stopping() and not gate(order["spec"]).exists():
            time.sleep(0.02)


def gate(spec: dict[str, Any]) -> Path:
    return Path(f"{spec['log']}-gate")


def note(order: Order, what: str) -> None:
    with Path(order["spec"]["log"]).open("a") as log:
        log.write(f"{os.getpid()} {what}\n")


def copies(scratch: Path) -> list[str]:
    """Where weights and checkpoints lie on this machine."""
    return sorted(
        str(path.parent.relative_to(scratch))
        for name in ("adapter_model.safetensors", "state.json")
        for path in scratch.rglob(name)
    )


def lines_of(order: Order, what: str) -> int:
    return sum(line.split(maxsplit=1)[1] == what for line in Path(order["spec"]["log"]).read_text().splitlines())


def spec_for(folder: Path, **values: Any) -> dict[str, Any]:
    return {"items": 6, "propagation": {"chunk_size": 1}, "log": str(folder / "runner-lines"), "rounds": 1, **values}


COMMAND = (sys.executable, "-m", "tests.worker.fake_runner")

if __name__ == "__main__":
    sys.exit(main(job))

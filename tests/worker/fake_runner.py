"""A runner whose job has the shape of the real one and takes milliseconds: stages, chunks, an adapter, artefacts, no torch.

The job's spec says how it behaves: items, seconds a chunk and a training step take, and one fault (`fault`). What it
computes depends on the spec alone. It writes what it does to spec["log"], one line each.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worker.keep import PipeKeep
from worker.runner import Order, main
from worker.semisup.data import Adapter, Folder, Report, Sample, Selection, Vote
from worker.semisup.errors import DataError

STEPS = 5


def job(order: Order, keep: PipeKeep) -> None:
    spec = order["spec"]
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
        note(order, f"child {subprocess.Popen(['sleep', '60']).pid}")
    if spec.get("environment"):
        Path(spec["environment"]).write_text(json.dumps(dict(os.environ)))
    note(order, "start assist" if order["assist"] else "start")
    scratch = Path(order["scratch"])
    first = keep.within("round-1")
    first("warmup", lambda: train(order, keep, scratch / "warm", "warmup"))
    votes = first.map("propagate", range(spec["items"]), lambda part: infer(order, part))
    selection = first("select", lambda: choose(votes))
    first("evolve", lambda: train(order, keep, scratch / "evolved", f"evolve {selection.selected}"))
    report = keep("report", lambda: Report({"accuracy": 0.5, "seconds": sorted(keep.seconds())}))
    keep("artifacts", lambda: write(scratch / "results", report))


def train(order: Order, keep: PipeKeep, folder: Path, text: str) -> Adapter:
    note(order, f"begin {text}")
    for step in range(1, STEPS + 1):
        time.sleep(order["spec"].get("step_seconds", 0))
        keep.tick(step, STEPS, loss=1.0 / step, broken=float("nan"))
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(text.encode())
    note(order, f"end {text}")
    return Adapter(str(folder), "lora", "0" * 64, STEPS, 70, 0.2)


def infer(order: Order, part: Sequence[int]) -> list[Vote]:
    note(order, f"begin chunk {part[0]}")
    time.sleep(order["spec"].get("chunk_seconds", 0))
    note(order, f"end chunk {part[0]}")
    return [Vote("a", f"answer \x00 {item}", str(item % 3), 0.1 * item, 2) for item in part]


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


def note(order: Order, what: str) -> None:
    with Path(order["spec"]["log"]).open("a") as log:
        log.write(f"{os.getpid()} {what}\n")


def spec_for(folder: Path, **values: Any) -> dict[str, Any]:
    return {"items": 6, "propagation": {"chunk_size": 1}, "log": str(folder / "runner-lines"), "rounds": 1, **values}


COMMAND = (sys.executable, "-m", "tests.worker.fake_runner")

if __name__ == "__main__":
    sys.exit(main(job))

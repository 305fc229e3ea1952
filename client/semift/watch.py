"""Following a job until it ends. What is followed lives on the server: stop and start again whenever you like."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from semift import wire
from semift.client import Client
from semift.errors import ApiError, Unreachable

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # a server that restarts is waited for
LINE_SECONDS = 10.0  # between two plain lines of one stage


class Display(Protocol):
    def update(self, job: wire.Job, stages: Sequence[wire.Stage]) -> None: ...

    def note(self, message: str) -> None: ...

    def close(self) -> None: ...


def watch(client: Client, job_id: str, display: Display, *, sleep: Callable[[float], None] = time.sleep) -> wire.Job:
    """The job as it ended. Raises Unreachable when the server stays away for PATIENCE_SECONDS."""
    lost_at: float | None = None
    try:
        while True:
            try:
                job = client.job(job_id)
                display.update(job, client.stages(job_id))
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                if lost_at is None:
                    lost_at = time.monotonic()
                    display.note("The server does not answer; waiting for it.")
                if time.monotonic() - lost_at > PATIENCE_SECONDS:
                    raise
            else:
                lost_at = None
                if job["status"] in wire.TERMINAL:
                    return job
            sleep(POLL_SECONDS)
    finally:
        display.close()


def done_of(stage: wire.Stage) -> tuple[int, int | None, str]:
    """How far a stage is: done, all of it (None: not known) and in what."""
    if stage["chunks"]:
        return stage["chunks_done"], stage["chunks"], "chunks"
    return stage["step"] or 0, stage["total"] or None, "steps"


class Bars:
    """One line per stage on a terminal: chunks or steps, rate, time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Count(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=False,
        )
        self._tasks: dict[str, int] = {}
        self._phase = ""
        self._progress.start()

    def update(self, job: wire.Job, stages: Sequence[wire.Stage]) -> None:
        phase = job["status"] if not stages else ""
        if phase != self._phase:
            self._phase = phase
            if phase:
                self._progress.console.print(f"{job['id']}: {phase}")
        for stage in stages:
            done, total, unit = done_of(stage)
            if stage["status"] == "done":
                done = total = total or 1
            if stage["name"] not in self._tasks:
                self._tasks[stage["name"]] = self._progress.add_task(stage["name"], total=total, unit=unit)
            task = self._tasks[stage["name"]]
            self._progress.update(task, completed=done, total=total, unit=unit, seconds=stage["seconds"])  # type: ignore[arg-type]

    def note(self, message: str) -> None:
        self._progress.console.print(message)

    def close(self) -> None:
        self._progress.stop()


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        known = task.total is not None and task.fields["unit"] and not (task.finished and task.total == 1)
        return Text(f"{int(task.completed)}/{int(task.total or 0)} {task.fields['unit']}" if known else "")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.fields.get("seconds")
        if seconds is not None and task.finished:
            return Text(f"{seconds:.1f} s", style="green")
        return Text(f"{task.speed:.2g}/s" if task.speed else "", style="cyan")


class Lines:
    """Plain lines for logs and pipes: a stage's start, its end, and how far it is every LINE_SECONDS."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._status = ""
        self._begun: dict[str, tuple[float, int]] = {}
        self._told: dict[str, tuple[float, int]] = {}

    def update(self, job: wire.Job, stages: Sequence[wire.Stage]) -> None:
        if job["status"] != self._status:
            self._status = job["status"]
            self.note(f"{job['id']} {self._status}")
        for stage in stages:
            self._stage(stage)

    def _stage(self, stage: wire.Stage) -> None:
        name, now = stage["name"], self._clock()
        done, total, unit = done_of(stage)
        began, first = self._begun.setdefault(name, (now, done))
        told_at, told = self._told.get(name, (-LINE_SECONDS, -1))
        if stage["status"] == "done":
            if told != -2:
                self._told[name] = (now, -2)
                seconds = stage["seconds"]
                self.note(f"{name} done" + (f" in {seconds:.1f} s" if seconds is not None else ""))
        elif now - told_at >= LINE_SECONDS and done != told:
            self._told[name] = (now, done)
            self.note(f"{name} {progress_line(done, total, unit, done - first, now - began)}".rstrip())

    def note(self, message: str) -> None:
        self._out.write(f"{time.strftime('%H:%M:%S')} {message}\n")
        self._out.flush()

    def close(self) -> None:
        pass


def progress_line(done: int, total: int | None, unit: str, gained: int, seconds: float) -> str:
    """For example `12/40 steps, 2.0/s, 14 s left`; rate and rest come from what was gained in `seconds` of watching."""
    if total is None:
        return ""
    text = f"{done}/{total} {unit}"
    if gained <= 0 or seconds <= 0:
        return text
    rate = gained / seconds
    return f"{text}, {rate:.2g}/s, {(total - done) / rate:.0f} s left"


class JsonLines:
    """One JSON object a line, whenever something changed: {"job": …, "stages": […]}."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def update(self, job: wire.Job, stages: Sequence[wire.Stage]) -> None:
        line = json.dumps({"job": job, "stages": list(stages)})
        if line != self._last:
            self._last = line
            self._out.write(line + "\n")
            self._out.flush()

    def note(self, message: str) -> None:
        self._out.write(json.dumps({"note": message}) + "\n")

    def close(self) -> None:
        pass

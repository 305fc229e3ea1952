"""Following a job: what is shown, what ends it, and what a server's absence does."""

import io
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from rich.console import Console
from semift import Client, Unreachable
from semift import watch as watching
from semift.cli import app
from semift.watch import Bars, JsonLines, Lines, progress_line, watch
from semift.wire import Job, Stage
from typer.testing import CliRunner

from tests.client.conftest import Handler

Scripted = Callable[[Handler], Client]


def job(status: str, **extra: Any) -> Job:
    return cast(Job, {"id": "ftjob-1", "status": status, "error": None, "fine_tuned_model": None, "progress": {}, **extra})


def stage(name: str, done: int = 0, total: int | None = None, *, status: str = "open", chunks: bool = False) -> Stage:
    steps = {"chunks": None, "chunks_done": 0, "step": done, "total": total}
    counted = {"chunks": total, "chunks_done": done, "step": None, "total": None} if chunks else steps
    return cast(Stage, {"name": name, "status": status, "items": None, "seconds": 2.5 if status == "done" else None, **counted})


STORY = [
    (job("queued"), []),
    (job("running"), [stage("warmup", 4, 40)]),
    (job("running"), [stage("warmup", 40, 40, status="done"), stage("round-1/propagate", 1, 4, chunks=True)]),
    (job("running"), [stage("warmup", 40, 40, status="done"), stage("round-1/propagate", 3, 4, chunks=True)]),
    (job("succeeded"), [stage("warmup", 40, 40, status="done"), stage("round-1/propagate", 4, 4, status="done", chunks=True)]),
]


def tell(story: list[tuple[Job, list[Stage]]]) -> Handler:
    """A server that is one step further in the story with each look at the job."""
    steps = iter(story)
    now: list[tuple[Job, list[Stage]]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/ftjob-1"):
            now[:] = [next(steps)]
            return httpx.Response(200, json=now[0][0])
        data = now[0][1] if request.url.path.endswith("/stages") else []
        return httpx.Response(200, json={"object": "list", "data": data, "has_more": False})

    return answer


def test_plain_lines_tell_each_stage_s_start_progress_and_end(scripted: Scripted) -> None:
    out = io.StringIO()
    clock = iter(float(20 * i) for i in range(100))
    ended = watch(scripted(tell(STORY)), "ftjob-1", Lines(out, clock=lambda: next(clock)), sleep=lambda _: None)
    assert ended["status"] == "succeeded"
    assert [line[9:] for line in out.getvalue().splitlines()] == [
        "ftjob-1 queued",
        "ftjob-1 running",
        "warmup 4/40 steps",
        "warmup done in 2.5 s",
        "round-1/propagate 1/4 chunks",
        "round-1/propagate 3/4 chunks, 0.05/s, 20 s left",
        "ftjob-1 succeeded",
        "round-1/propagate done in 2.5 s",
    ]


def test_plain_lines_are_not_repeated_within_ten_seconds() -> None:
    out = io.StringIO()
    lines = Lines(out, clock=iter([0.0, 1.0, 9.0, 11.0]).__next__)
    for done in range(4):
        lines.update(job("running"), [stage("warmup", done, 9)])
    assert [line[9:] for line in out.getvalue().splitlines()[1:]] == ["warmup 0/9 steps", "warmup 3/9 steps, 0.27/s, 22 s left"]


def test_the_rate_is_that_of_the_watching_so_a_late_watcher_is_not_misled() -> None:
    assert progress_line(30, 40, "steps", gained=10, seconds=5.0) == "30/40 steps, 2/s, 5 s left"
    assert progress_line(30, 40, "steps", gained=0, seconds=0.0) == "30/40 steps"
    assert progress_line(0, None, "steps", gained=0, seconds=1.0) == ""


def test_a_terminal_shows_one_line_per_stage(scripted: Scripted) -> None:
    out = io.StringIO()
    watch(scripted(tell(STORY)), "ftjob-1", Bars(Console(file=out, force_terminal=True, width=120)), sleep=lambda _: None)
    last = out.getvalue().split("\x1b[2K")[-2:]
    assert "round-1/propagate" in "".join(last)
    assert "4/4 chunks" in "".join(last)
    assert "40/40 steps" in "".join(last)
    assert "2.5 s" in "".join(last)


def test_json_lines_come_when_something_changed(scripted: Scripted) -> None:
    out = io.StringIO()
    watch(scripted(tell([STORY[0], STORY[0], *STORY[1:]])), "ftjob-1", JsonLines(out), sleep=lambda _: None)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["job"]["status"] for line in told] == ["queued", "running", "running", "running", "succeeded"]
    assert told[2]["stages"][1]["chunks_done"] == 1


def test_a_server_that_restarts_is_waited_for(scripted: Scripted) -> None:
    story, looks = tell(STORY), iter(range(1000))

    def flaky(request: httpx.Request) -> httpx.Response:
        look = next(looks)
        if 4 <= look < 9:
            raise httpx.ConnectError("refused")
        return httpx.Response(503, json={"error": {"message": "Busy."}}) if look == 9 else story(request)

    out = io.StringIO()
    assert watch(scripted(flaky), "ftjob-1", Lines(out), sleep=lambda _: None)["status"] == "succeeded"
    assert out.getvalue().count("does not answer") == 1


def test_a_server_that_stays_away_is_given_up(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    waits: list[float] = []
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: sum(waits), strftime=time.strftime))
    with pytest.raises(Unreachable):
        watch(scripted(refuse), "ftjob-1", Lines(io.StringIO()), sleep=waits.append)
    assert watching.PATIENCE_SECONDS < sum(waits) <= watching.PATIENCE_SECONDS + watching.POLL_SECONDS


@pytest.mark.parametrize(
    ("ended", "code", "word"),
    [
        (job("succeeded", fine_tuned_model="ft:small:org::1"), 0, "ft:small:org::1"),
        (job("failed", error={"code": "out_of_memory", "message": "Too large.", "hint": "Halve it."}), 1, "Halve it."),
        (job("cancelled"), 3, "cancelled"),
    ],
)
def test_watch_exits_with_how_the_job_ended(scripted: Scripted, ended: Job, code: int, word: str) -> None:
    scripted(tell([(ended, [])]))
    result = CliRunner().invoke(app, ["watch", "ftjob-1"])
    assert result.exit_code == code
    assert word in result.output


def test_ctrl_c_detaches_without_cancelling_and_says_how_to_come_back(scripted: Scripted) -> None:
    methods: list[str] = []

    def interrupt(request: httpx.Request) -> httpx.Response:
        methods.append(request.method)
        raise KeyboardInterrupt

    scripted(interrupt)
    result = CliRunner().invoke(app, ["watch", "ftjob-1", "--url", "http://semift.test:9"])
    assert result.exit_code == 130
    assert "semift watch ftjob-1 --url http://semift.test:9" in result.output
    assert methods == ["GET"]

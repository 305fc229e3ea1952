"""The checker says nothing of a history in which all promises held, and names the promise that each bad one breaks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import check, recoveries
from tests.chaos.history import STANDSTILL, Deed, Fault, History, Move, Op

JOB = "ftjob-1"


def move(number: int, kind: str, before: str | None, after: str | None, token: int, **more: Any) -> Move:
    given = {"at": float(number), "job": JOB, "name": "", "holder": token, "content": None} | more
    return Move(number=number, kind=kind, before=before, after=after, token=token, **given)


def job(**values: Any) -> dict[str, Any]:
    plain = {"id": JOB, "status": "succeeded", "error": None, "adapter_name": "ft:x", "lease_until": None}
    return {**plain, "key": "k1", "kind": "small", "hash": "ref", **values}


def good() -> History:
    """One job whose first runner was killed at 4.5 and noticed at 8, with one chunk and two stages."""
    chunk, stage = {"name": "round-1/propagate/0"}, {"name": "round-1/warmup", "content": "w"}
    return History(
        lease_seconds=3,
        settle_seconds=2,
        ops=[Op(1, "submit", "k1", JOB, "ok"), Op(1, "submit", "k2", None, "refused")],
        deeds=[
            *(Deed(at, 11, 1, JOB, what) for at, what in ((2.1, "start"), (2.2, "begin warmup"), (2.3, "end warmup"))),
            Deed(4.2, 11, 1, JOB, "begin chunk 0"),
            *(Deed(at, 22, 2, JOB, what) for at, what in ((9.1, "start"), (9.2, "begin chunk 0"), (9.3, "end chunk 0"))),
        ],
        faults=[Fault(4.5, 4.5, "kill_runner", (11,))],
        moves=[
            move(1, "job", None, "queued", 0),
            move(2, "job", "queued", "running", 1),
            move(3, "stage", "open", "done", 1, **stage),
            move(4, "chunk", "open", "leased", 1, **chunk),
            move(7, "chunk", "leased", "open", 1, **chunk),
            move(8, "job", "running", "queued", 1),
            move(9, "job", "queued", "running", 2),
            move(10, "chunk", "open", "leased", 2, **chunk),
            move(11, "chunk", "leased", "done", 2, **chunk, content="c"),
            move(12, "stage", "open", "done", 2, name="round-1/propagate", content="p"),
            move(13, "job", "running", "succeeded", 2),
        ],
        jobs=[job()],
        samples=[{"job": JOB, "round": 1, "query_id": "u-0", "verdict": "selected"}],
        counts=[{"job": JOB, "rows": 1, "summary": 1, "selected": 1, "summary_selected": 1}],
        references={"small": "ref"},
    )


def test_a_history_in_which_all_held_has_no_violation(tmp_path: Path) -> None:
    assert check(good()) == []
    assert recoveries(good()) == [(JOB, 11, 3.5)]
    good().write(tmp_path / "history.json")
    assert History.read(tmp_path / "history.json") == good()


def changed(number: int, **values: Any) -> Callable[[History], None]:
    def change(history: History) -> None:
        history.moves = [replace(one, **values) if one.number == number else one for one in history.moves]

    return change


def added(*extra: Move | Deed | Op | Fault) -> Callable[[History], None]:
    def change(history: History) -> None:
        for one in extra:
            kinds: dict[type, list[Any]] = {Move: history.moves, Deed: history.deeds, Op: history.ops, Fault: history.faults}
            kinds[type(one)].append(one)

    return change


def left(**values: Any) -> Callable[[History], None]:
    def change(history: History) -> None:
        history.jobs = [job(**values)]

    return change


def lost(history: History) -> None:
    history.jobs = []


def twice(history: History) -> None:
    history.jobs.append(job(id="ftjob-2"))


def doubled(history: History) -> None:
    history.samples *= 2


def miscounted(history: History) -> None:
    history.counts[0]["summary"] = 2


def rotten(history: History) -> None:
    history.bad_blobs = ["0" * 64]


BAD: dict[str, tuple[str, Callable[[History], None], str]] = {
    "an accepted job is gone": ("P1", lost, "not in the database"),
    "a refused order made a job": ("P1", left(key="k2"), "refused, and made a job"),
    "a job never ends": ("P1", left(status="queued", adapter_name=None), "never came to an end"),
    "one key, two jobs": ("P11", twice, "2 jobs under one"),
    "a token goes back": ("P2", changed(13, token=1), "went back from 2 to 1"),
    "a stage of a stale worker": ("P2", changed(3, holder=2), "recorded by 1 while 2 had the job"),
    "a chunk somebody else held": ("P2", changed(11, token=1), "2 held it"),
    "a stale runner goes on": ("P2", added(Deed(14.5, 11, 1, JOB, "end chunk 0")), "after its successor began"),
    "a stage recorded as something else": (
        "P3",
        added(move(14, "stage", "done", "done", 2, name="round-1/warmup", content="other")),
        "recorded again",
    ),
    "a stage forgotten": ("P3", added(move(14, "stage", "done", None, 2, name="round-1/warmup")), "was done and became None"),
    "a stage computed again": ("P3", added(Deed(9.5, 22, 2, JOB, "begin warmup")), "begun again 6.5 s after"),
    "a chunk computed again": ("P3", added(Deed(11.5, 22, 2, JOB, "begin chunk 0")), "begun again 0.5 s after"),
    "a sample twice": ("P4", doubled, "u-0 is 2 times in round 1"),
    "counts that differ": ("P4", miscounted, "1 samples, 2 in its summaries"),
    "other bytes": ("P5", left(hash="different"), "undisturbed ref"),
    "a file that is gone": ("P5", rotten, "has not as it was"),
    "a death nobody notices": ("P7", changed(8, at=10.0), "5.5 s after 11 died"),
    "a cancel that lost": ("P8", added(Op(12, "cancel", "", JOB, "ok")), "ended as succeeded"),
    "an end that was none": ("P8", added(move(14, "job", "succeeded", "queued", 2)), "succeeded became queued"),
    "a move there is not": ("P8", changed(2, before="paused"), "paused became running"),
    "an end that holds a lease": ("P8", left(lease_until=99.0), "holds a lease"),
    "success without an adapter": ("P8", left(adapter_name=None), "succeeded with adapter None"),
    "a failure for nothing": ("P9", left(status="failed", adapter_name=None, error={"code": "x"}), "nothing was wrong"),
    "a failure without reason": ("P9", left(status="failed", adapter_name=None), "failed without a reason"),
    "poison that succeeds": ("P9", left(kind="poison"), "kills every runner and succeeded"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_promise_is_named(name: str) -> None:
    promise, spoil, says = BAD[name]
    history = good()
    spoil(history)
    found = check(history)
    assert [one for one in found if one.promise == promise and says in one.what], found


def test_every_rule_is_broken_by_some_history() -> None:
    assert {promise for promise, *_ in BAD.values()} == {"P1", "P2", "P3", "P4", "P5", "P7", "P8", "P9", "P11"}


def test_a_server_that_was_away_is_not_held_against_recovery() -> None:
    history = good()
    changed(8, at=12.0)(history)
    changed(9, at=12.5)(history)
    assert [one.promise for one in check(history)].count("P7") == 1
    added(Fault(6.0, 9.0, "postgres_blackhole"), Fault(8.0, 9.5, "redis_cut"))(history)
    assert [one.promise for one in check(history)].count("P7") == 0
    assert recoveries(history) == [(JOB, 11, 7.5 - 3.5)]


def test_a_stopped_runner_may_speak_once_more_until_it_can_be_told() -> None:
    history = good()
    added(Deed(14.5, 11, 1, JOB, "end chunk 0"), Fault(4.4, 12.0, "stop_worker", (11,)))(history)
    assert [one for one in check(history) if "successor" in one.what] == []


def test_a_machine_that_stood_still_is_held_against_nobody() -> None:
    """Not the recovery that took longer, nor what its runners do before they can be told."""
    history = good()
    changed(8, at=12.0)(history)
    changed(9, at=12.5)(history)
    added(Deed(14.5, 11, 1, JOB, "end chunk 0"), Deed(9.5, 22, 2, JOB, "begin warmup"))(history)
    assert {one.promise for one in check(history)} == {"P2", "P3", "P7"}
    added(Fault(5.0, 9.6, STANDSTILL))(history)
    assert check(history) == []
    added(Deed(17.9, 11, 1, JOB, "end chunk 0"), Deed(11.7, 22, 2, JOB, "begin warmup"))(history)
    assert {one.promise for one in check(history)} == {"P2", "P3"}, "for as long as it takes to be told, and no longer"

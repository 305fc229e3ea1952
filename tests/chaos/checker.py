"""Did the promises hold? A pure function over a History: the violations, each by promise, job and what was seen.

P1  what a client was told is accepted is there and came to an end; P11  one key, one job
P2  one writer: every record was made under the lease the job had, tokens only grow, a stale runner falls silent in time
P3  a stage is recorded once and, once recorded, never computed again; so is a chunk (P6)
P4  no sample twice; rows, summaries and samples count alike
P5  every job that succeeded left what the undisturbed run leaves, and every file it names is there with the right bytes
P7  a job whose runner died is noticed in time
P8  a cancel that was answered with ok ends the job as cancelled; no job leaves a final state; moves are legal
P9  a job that kills its runner ends as failed with a reason; no job fails otherwise
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from models.status import MOVES, TERMINAL
from tests.chaos.history import STANDSTILL, Deed, History, Move
from tests.chaos.runner import CHUNK_SIZE

LEGAL = {(before, after) for before, moves in MOVES.items() for after in moves.values()} | {(None, "queued")}
NOTICED = ("queued", "paused", "failed", "cancelled", "succeeded")  # what a claimed job may become next
POISON = "poison"


@dataclass(frozen=True)
class Violation:
    promise: str
    job: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise} {self.job}: {self.what}"


def check(history: History) -> list[Violation]:
    return [violation for rule in RULES for violation in rule(history)]


def accepted_is_durable(history: History) -> Iterator[Violation]:
    there = {job["id"]: job for job in history.jobs}
    by_key = Counter(job["key"] for job in history.jobs if job["key"])
    for op in history.ops:
        if op.what == "submit" and op.outcome == "ok" and op.job not in there:
            yield Violation("P1", str(op.job), f"accepted under {op.key} and not in the database")
        if op.what == "submit" and op.outcome == "refused" and by_key[op.key]:
            yield Violation("P1", op.key, "refused, and made a job all the same")
    for key, times in by_key.items():
        if times > 1:
            yield Violation("P11", key, f"{times} jobs under one Idempotency-Key")
    for job in history.jobs:
        if job["status"] not in TERMINAL:
            yield Violation("P1", job["id"], f"never came to an end: {job['status']}")


def one_writer(history: History) -> Iterator[Violation]:
    newest: dict[str, int] = {}
    for move in history.moves:
        if move.kind == "job" and move.token is not None:
            if move.token < newest.get(move.job, 0):
                yield Violation("P2", move.job, f"its token went back from {newest[move.job]} to {move.token}")
            newest[move.job] = max(move.token, newest.get(move.job, 0))
    chunked = {(move.job, move.name.rpartition("/")[0]) for move in history.moves if move.kind == "chunk"}
    held: dict[tuple[str, str], int | None] = {}
    for move in history.moves:
        key = (move.job, move.name)
        if move.kind == "chunk":
            if move.after == "done" and move.before == "leased" and move.token != held.get(key):
                yield Violation("P2", move.job, f"{move.name} was recorded by {move.token}; {held.get(key)} held it")
            held[key] = move.token if move.after == "leased" else None
        # The last chunk ends its stage, whoever computed it; every other stage is its owner's.
        if move.kind == "stage" and move.after == "done" and key not in chunked and move.token != move.holder:
            yield Violation("P2", move.job, f"{move.name} was recorded by {move.token} while {move.holder} had the job")


def stale_runners_fall_silent(history: History) -> Iterator[Violation]:
    """A runner whose successor has begun may go on for the rest of a lease, counted anew from when it could be told."""
    stopped = [fault for fault in history.faults if fault.name.startswith("stop")]
    for job, deeds in _by_job(history).items():
        begins = {deed.token: deed for deed in deeds if deed.what == "start"}
        for deed in deeds:
            later = [other.at for token, other in begins.items() if token > deed.token]
            if deed.token not in begins or not later:
                continue
            told = max([min(later), *(fault.until for fault in stopped if fault.at <= deed.at)])
            if deed.at > told + history.lease_seconds + history.settle_seconds:
                yield Violation(
                    "P2", job, f"{deed.what!r} by {deed.token}, {deed.at - min(later):.1f} s after its successor began"
                )


def recorded_once(history: History) -> Iterator[Violation]:
    done: dict[tuple[str, str, str], Move] = {}
    for move in history.moves:
        if move.kind == "job":
            continue
        key = (move.kind, move.job, move.name)
        before = done.get(key)
        if before is None:
            if move.after == "done":
                done[key] = move
        elif move.after == "done" and move.content != before.content:
            yield Violation("P3", move.job, f"{move.name} was recorded again, as something else")
        elif move.after != "done":
            yield Violation("P3", move.job, f"{move.name} was done and became {move.after}")
            del done[key]


def computed_once(history: History) -> Iterator[Violation]:
    """Nothing that was recorded is begun again; a runner that was stopped in between may not know yet. Neither may one whose
    machine has just stood still for longer than its lease.
    """
    done = {(move.job, move.name): move.at for move in history.moves if move.kind != "job" and move.after == "done"}
    stopped = {pid for fault in history.faults if fault.name.startswith("stop") for pid in fault.pids}
    still = [(fault.at, fault.until + history.settle_seconds) for fault in history.faults if fault.name == STANDSTILL]
    for deed in history.deeds:
        verb, _, what = deed.what.partition(" ")
        if verb != "begin" or deed.pid in stopped or any(at <= deed.at <= until for at, until in still):
            continue
        kind, _, number = what.partition(" ")
        name = f"round-1/propagate/{int(number) // CHUNK_SIZE}" if kind == "chunk" else f"round-1/{kind}"
        if (at := done.get((deed.job, name))) is not None and deed.at > at + SLACK_SECONDS:
            yield Violation("P3", deed.job, f"{name} was begun again {deed.at - at:.1f} s after it was recorded")


def no_sample_twice(history: History) -> Iterator[Violation]:
    seen = Counter((row["job"], row["round"], row["query_id"]) for row in history.samples)
    for (job, number, query), times in seen.items():
        if times > 1:
            yield Violation("P4", job, f"{query} is {times} times in round {number}")
    for row in history.counts:
        if row["rows"] != row["summary"] or row["selected"] != row["summary_selected"]:
            yield Violation("P4", row["job"], f"{row['rows']} samples, {row['summary']} in its summaries")


def same_bytes(history: History) -> Iterator[Violation]:
    for job in history.jobs:
        wanted = history.references.get(job["kind"] or "")
        if job["status"] == "succeeded" and wanted and job["hash"] != wanted:
            yield Violation("P5", job["id"], f"left {job['hash'][:12]}, undisturbed {wanted[:12]}")
    for sha256 in history.bad_blobs:
        yield Violation("P5", "-", f"a finished job names {sha256[:12]}, which the store has not as it was")


def noticed_in_time(history: History) -> Iterator[Violation]:
    """`settle_seconds` more than a lease, not counting faults of the servers it is noticed with."""
    bound = history.lease_seconds + history.settle_seconds
    for job, pid, seconds in recoveries(history):
        if seconds > bound:
            yield Violation("P7", job, f"{seconds:.1f} s after {pid} died nobody had noticed; {bound:g} s are allowed")


def ends_are_final(history: History) -> Iterator[Violation]:
    cancelled = {op.job for op in history.ops if op.what == "cancel" and op.outcome == "ok"}
    for move in history.moves:
        if move.kind != "job" or move.before == move.after:
            continue
        if move.before in TERMINAL:
            yield Violation("P8", move.job, f"{move.before} became {move.after}")
        elif (move.before, move.after) not in LEGAL:
            yield Violation("P8", move.job, f"{move.before} became {move.after}, which is no move")
    for job in history.jobs:
        if job["id"] in cancelled and job["status"] != "cancelled":
            yield Violation("P8", job["id"], f"a cancel was answered with ok, and it ended as {job['status']}")
        if job["status"] in TERMINAL and job["lease_until"] is not None:
            yield Violation("P8", job["id"], f"{job['status']}, and holds a lease")
        if (job["adapter_name"] is not None) != (job["status"] == "succeeded"):
            yield Violation("P8", job["id"], f"{job['status']} with adapter {job['adapter_name']}")


def failures_have_reasons(history: History) -> Iterator[Violation]:
    for job in history.jobs:
        if job["kind"] == POISON and job["status"] == "succeeded":
            yield Violation("P9", job["id"], "it kills every runner and succeeded")
        if job["status"] != "failed":
            continue
        if not (job["error"] or {}).get("code"):
            yield Violation("P9", job["id"], "failed without a reason")
        if job["kind"] != POISON:
            yield Violation("P9", job["id"], f"failed, and nothing was wrong with it: {job['error']}")


SLACK_SECONDS = 0.1  # two clocks of one machine: the database's and the runner's
Rule = Callable[[History], Iterator[Violation]]
RULES: tuple[Rule, ...] = (
    accepted_is_durable,
    one_writer,
    stale_runners_fall_silent,
    recorded_once,
    computed_once,
    no_sample_twice,
    same_bytes,
    noticed_in_time,
    ends_are_final,
    failures_have_reasons,
)


def recoveries(history: History) -> list[tuple[str, int, float]]:
    """(job, pid, seconds): how long after the death of the runner that had it a job was back in the queue, taken or ended.

    Time during which one of the servers was away does not count; nor do deaths that found the job ended.
    """
    moves = defaultdict(list)
    for move in history.moves:
        if move.kind == "job":
            moves[move.job].append(move)
    owners = {deed.pid: deed for deed in history.deeds if deed.what == "start"}
    found = []
    for fault in history.faults:
        if not fault.name.startswith("kill"):
            continue
        for pid in fault.pids:
            if pid not in owners:
                continue
            owner = owners[pid]
            had = [move for move in moves[owner.job] if move.at <= fault.at]
            if not had or had[-1].token != owner.token or had[-1].after != "running":
                continue
            after = next((move for move in moves[owner.job] if move.at > fault.at), None)
            until = after.at if after else max([fault.at, *(move.at for move in history.moves)])
            found.append((owner.job, pid, until - fault.at - _away(history, fault.at, until)))
    return found


def _away(history: History, start: float, end: float) -> float:
    """Seconds of [start, end] in which a server was away, or a process or the machine was stopped."""
    spans = sorted(
        (max(start, fault.at), min(end, fault.until)) for fault in history.faults if not fault.name.startswith("kill")
    )
    total, reached = 0.0, start
    for a, b in spans:
        if b > max(a, reached):
            total += b - max(a, reached)
            reached = b
    return total


def _by_job(history: History) -> dict[str, list[Deed]]:
    ordered = sorted(history.deeds, key=lambda deed: deed.job)
    return {job: list(group) for job, group in itertools.groupby(ordered, key=lambda deed: deed.job)}

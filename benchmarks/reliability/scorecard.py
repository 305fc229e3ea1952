"""The scorecard: one line for each promise that has a number, from what was measured and when. Pure functions of the JSON."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from benchmarks.reliability.faults import Result

Found = Mapping[str, Mapping[str, Any]]
NOT_MEASURED = "not measured"


def table(found: Found) -> list[str]:
    """Markdown: what, Semift, the plain Celery task, when; then both under each simple fault."""
    lines = ["| | Semift | plain Celery task | measured |", "|---|---|---|---|"]
    lines += [f"| {what} | {ours} | {naive} | {date} |" for what, ours, naive, date in rows(found)]
    if faults := found.get("faults"):
        lines += ["", f"| the same fault | Semift | plain Celery {faults['celery']} |", "|---|---|---|"]
        for row in faults["rows"]:
            lines.append(f"| {row['words']} | {Result(**row['ours']).words()} | {Result(**row['naive']).words()} |")
    return lines


def rows(found: Found) -> Iterator[tuple[str, str, str, str]]:
    yield _simple_faults(found)
    yield from _chaos(found.get("chaos"))
    yield from _promptness(found.get("promptness"))
    yield _tests(found, "resume", "interrupted runs that end with the bytes of the undisturbed one", "{good} of {cases}", "-")
    yield _tests(found, "bad_input", "bad inputs and fuzz runs without a 5xx", "{good} of {cases}", "-")
    yield _tests(found, "banned_calls", "calls that make code of data (gate and its own tests)", "{failed} found", "-")
    yield _tests(found, "seeded_bugs", "bugs planted to examine checker and model, caught", "{good} of {cases}", "-")


def _simple_faults(found: Found) -> tuple[str, str, str, str]:
    part = found.get("faults")
    what = "simple faults that lose or double nothing"
    if part is None:
        return what, NOT_MEASURED, NOT_MEASURED, "-"
    good = {who: sum(Result(**row[who]).harmless for row in part["rows"]) for who in ("ours", "naive")}
    total = len(part["rows"])
    return what, f"{good['ours']} of {total}", f"{good['naive']} of {total}", part["date"]


def _chaos(part: Mapping[str, Any] | None) -> Iterator[tuple[str, str, str, str]]:
    if part is None:
        yield "random faults injected / violations", f"{NOT_MEASURED}: run it with --chaos-minutes 10", "-", "-"
        return
    faults = f"{part['faults_injected']} / {len(part['violations'])}"
    jobs = ", ".join(f"{count} {status}" for status, count in sorted(part["jobs"].items()))
    yield "random faults injected / violations", f"{faults} in {part['minutes']:g} min", "-", part["date"]
    yield "jobs under these faults", f"{jobs} ({part['jobs_meant_to_fail']} were made to fail)", "-", part["date"]
    median, last = part["recovery_seconds_median"], part["recovery_seconds_p99"]
    said = NOT_MEASURED if median is None else f"{median:g} s / {last:g} s ({part['recoveries']})"
    yield "a dead runner is noticed, median / p99", said, "-", part["date"]


def _promptness(part: Mapping[str, Any] | None) -> Iterator[tuple[str, str, str, str]]:
    if part is None:
        yield "seconds until a job starts, is cancelled, a worker has ended", NOT_MEASURED, "-", "-"
        return
    for row in part["rows"]:
        promised = "" if row["bound"] is None else f", promised: {row['bound']:g} s"
        said = f"{median(row['seconds']):.1f} s / {max(row['seconds']):.1f} s ({len(row['seconds'])}{promised})"
        yield f"{row['what']}, median / worst", said, "-", part["date"]


def _tests(found: Found, name: str, what: str, words: str, naive: str) -> tuple[str, str, str, str]:
    part = found.get(name)
    if part is None or not part["cases"]:
        absent = ", ".join(part["absent"]) if part else ""
        return what, f"{NOT_MEASURED}{': there is no ' + absent if absent else ''}", naive, "-"
    said = words.format(good=part["cases"] - part["failed"], **part)
    partly = f" (without {', '.join(part['absent'])})" if part["absent"] else ""
    return what, said + partly, naive, part["date"]


def clean(found: Found) -> bool:
    """Nothing that was measured broke a promise of ours."""
    faults = all(Result(**row["ours"]).harmless for row in found.get("faults", {}).get("rows", ()))
    chaos = not found.get("chaos", {}).get("violations")
    bounded = [row for row in found.get("promptness", {}).get("rows", ()) if row["bound"] is not None]
    prompt = all(max(row["seconds"]) <= row["bound"] for row in bounded)
    return faults and chaos and prompt and not any(part.get("failed") for part in found.values())

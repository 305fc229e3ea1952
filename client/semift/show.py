"""What the command prints: tables for people, JSON for programs."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from semift import wire
from semift.errors import ApiError, SemiftError

SHOWN_FINDINGS = 200  # --json shows all the server keeps


PIPE_WIDTH = 240  # where there is no terminal, lines are not folded at 80


def console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def emit(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def listing(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(items)}


def table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    out.print(grid)


def error(failure: SemiftError, as_json: bool) -> None:
    """On standard error for people; in `--json` mode the envelope, on standard output."""
    if as_json:
        emit(failure.as_json())
        return
    err = console(stderr=True)
    err.print(f"[red]error:[/red] {escape(failure.message)}")
    if isinstance(failure, ApiError):
        where = [
            f"{name} {value}"
            for name, value in (("code", failure.code), ("param", failure.param), ("line", failure.line))
            if value
        ]
        if where:
            err.print(escape(f"       {', '.join(where)}"))
        for finding in failure.errors[:SHOWN_FINDINGS]:
            err.print(escape(f"       {finding.get('param') or ''} {finding.get('message') or ''}"))
    if failure.hint:
        err.print(f"[cyan]hint:[/cyan]  {escape(failure.hint)}")


def validation(out: Console, name: str, report: wire.Validation) -> None:
    """The whole report: what was understood, then every finding with its line, place, code and fix."""
    colour = "green" if report["status"] == "ok" else "red"
    kind = " ".join(filter(None, (report["format"], report["layout"]))) or "unknown format"
    counts = f"{report['rows']} rows: {report['labeled']} labeled, {report['unlabeled']} unlabeled"
    out.print(f"{escape(name)}: [{colour}]{report['status']}[/], {kind}, {counts}")
    mapped = ", ".join(f"{key} = {column}" for key, column in report["mapping"].items() if column)
    if mapped:
        out.print(escape(f"columns: {mapped}"))
    found = [*report["errors"], *report["warnings"]]
    if found:
        table(out, ("line", "", "code", "message", "fix"), map(_finding, found[:SHOWN_FINDINGS]))
    counted = sum(report["error_counts"].values())
    if counted > len(report["errors"]) or len(found) > SHOWN_FINDINGS:
        out.print(f"{counted} errors in all: " + ", ".join(f"{code} {count}" for code, count in report["error_counts"].items()))


def _finding(item: wire.Finding) -> tuple[object, ...]:
    lines = item.get("line") or ", ".join(map(str, item.get("lines", [])[:5]))
    return lines, item["severity"], item["code"], item["message"], item.get("fix")


def when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} GiB"


def short(text: str, width: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"

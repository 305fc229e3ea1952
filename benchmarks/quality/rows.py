"""Rows of CSV, TSV, JSONL and JSON files as (question, options, answer), whatever they are called there."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.errors import BenchError
from benchmarks.quality.tasks import PROJECT, Column, Source, TaskFile
from worker.semisup.answers import LETTERS
from worker.semisup.ingest.text import normalised

Loaded = Mapping[str, tuple["Row", ...]]  # role -> rows


@dataclass(frozen=True, slots=True)
class Row:
    """`answer` is None in sources without one; of a choice it is the letter."""

    id: str
    question: str
    options: tuple[str, ...]
    answer: str | None

    @property
    def key(self) -> tuple[str, ...]:
        """What two rows must share to be the same row: the text as a reader sees it, options in any order (ingest's rule)."""
        return (normalised(self.question), *sorted(map(normalised, self.options)))


def load_rows(
    task: TaskFile, data: Path | None, *, roles: frozenset[str] = frozenset(("train", "labeled", "unlabeled", "test"))
) -> Loaded:
    """Every source's rows by role, each text once per role. Sources of other `roles` are not opened."""
    if task.root == "data" and data is None:
        raise BenchError(
            f"Task {task.name} needs its data set: give the folder that holds {task.sources[0].file} as --data PATH."
        )
    root = PROJECT if task.root == "project" else data
    found: dict[str, dict[tuple[str, ...], Row]] = {}
    for number, source in enumerate(task.sources):
        if source.role in roles:
            rows = found.setdefault(source.role, {})
            for row in _rows(task, source, root / source.file, number):  # type: ignore[operator]
                rows.setdefault(row.key, row)
    return {role: tuple(rows.values()) for role, rows in found.items()}


def _rows(task: TaskFile, source: Source, path: Path, number: int) -> Iterator[Row]:
    columns = source.columns or task.columns
    for place, raw in _raw(path, source.at):
        where = f"{path.name}, row {place}"
        if any(str(_cell(raw, column, where)) not in values for column, values in task.where.items()):
            continue
        answer = None if columns.answer is None else str(_cell(raw, columns.answer, where)).strip()
        if task.answers is not None and answer is not None and answer not in task.answers:
            continue
        options = () if columns.options is None else _options(_cell(raw, columns.options, where), where)
        if answer is not None and task.answer == "choice":
            answer = _letter(answer, options, where)
        question = " ".join(str(_cell(raw, columns.question, where)).split())
        if question and answer != "":
            yield Row(f"{source.role[0]}{number}-{place:06d}", question, options, answer)


def _raw(path: Path, at: str | None) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row) of a file; a row is a mapping or a list."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix in (".csv", ".tsv"):
                yield from enumerate(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","), 1)
            elif path.suffix == ".jsonl":
                yield from ((i, json.loads(line)) for i, line in enumerate(file, 1) if line.strip())
            elif path.suffix == ".json":
                here = json.load(file)
                for step in at.split(".") if at else ():
                    here = here[step]
                yield from enumerate(here, 1)
            else:
                raise BenchError(f"{path.name}: rows are read from .csv, .tsv, .jsonl and .json files.")
    except FileNotFoundError as error:
        raise BenchError(f"{path} does not exist: --data is the folder above it.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BenchError(f"{path.name} cannot be read ({error}){f'; is there a list at {at}?' if at else ''}.") from error


def _cell(raw: Any, column: Column, where: str) -> Any:
    try:
        value = raw[column]
    except (KeyError, IndexError, TypeError) as error:
        names = ", ".join(map(str, raw)) if isinstance(raw, Mapping) else f"positions 0 to {len(raw) - 1}"
        raise BenchError(f"{where} has no column {column!r}; it has {names}.") from error
    return "" if value is None else value


def _options(value: Any, where: str) -> tuple[str, ...]:
    try:
        listed = json.loads(value) if isinstance(value, str) else value
        return tuple(str(option) for option in listed)
    except (json.JSONDecodeError, TypeError) as error:
        raise BenchError(f"{where}: options are not a JSON list: {str(value)[:80]!r}.") from error


def _letter(answer: str, options: tuple[str, ...], where: str) -> str:
    """A choice's answer as its letter; some sets number their options from 1."""
    letter = LETTERS[int(answer) - 1] if answer.isdecimal() and 1 <= int(answer) <= len(options) else answer.upper()
    if letter not in LETTERS[: len(options)]:
        raise BenchError(f"{where}: the answer {answer!r} is none of the {len(options)} options.")
    return letter

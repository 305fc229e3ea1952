"""The rows of a job, in memory, and what must hold between its files.

Gold answers of unlabeled rows are returned apart from the rows: only the report may read them (methods.md A1).
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal

from worker.semisup.answers import LETTERS
from worker.semisup.data import Example, Query, Split
from worker.semisup.errors import DatasetRejected
from worker.semisup.ingest.columns import Mapped
from worker.semisup.ingest.findings import Finding, IngestOptions, Role
from worker.semisup.ingest.tally import duplicate_id
from worker.semisup.ingest.text import normalised, row_key
from worker.semisup.ingest.upload import Upload

Gold = Mapping[str, str]  # query id -> answer
SHOWN_PAIRS = 5


def read_labeled(
    path: Path | BinaryIO, filename: str, options: Mapping[str, Any] | IngestOptions | None = None, prefix: str = "l"
) -> tuple[Example, ...]:
    """All rows, in file order. Raises DatasetRejected for the first row that cannot be used, one without target included."""
    return tuple(row.example for row in _rows(path, filename, options, prefix, "labeled"))


def read_unlabeled(
    path: Path | BinaryIO, filename: str, options: Mapping[str, Any] | IngestOptions | None = None, prefix: str = "u"
) -> tuple[tuple[Query, ...], Gold]:
    """All rows without their targets, and apart from them the targets of those rows that have one."""
    rows = tuple(_rows(path, filename, options, prefix, "unlabeled"))
    return tuple(row.query for row in rows), {row.query.id: row.answer for row in rows if row.answer is not None}


def lines_of(
    path: Path | BinaryIO,
    filename: str,
    options: Mapping[str, Any] | IngestOptions | None,
    among: Collection[str],
    prefix: str = "l",
) -> dict[str, int]:
    """Where these labeled rows (by id) are, in file order: rows themselves do not carry their lines along."""
    return {row.query.id: row.line for row in _rows(path, filename, options, prefix, "labeled") if row.query.id in among}


def _rows(
    path: Path | BinaryIO, filename: str, options: Mapping[str, Any] | IngestOptions | None, prefix: str, role: Role
) -> Iterator[Mapped]:
    lines: dict[str, int] = {}
    with path.open("rb") if isinstance(path, Path) else nullcontext(path) as file:
        upload = Upload(file, filename, IngestOptions.of(options).model_copy(update={"role": role}), prefix)
        for _, row in upload:
            if isinstance(row, Finding):
                raise _rejected(filename, row)
            if row.query.id in lines:
                given = row.query.id.removeprefix(f"{prefix}-")
                raise _rejected(filename, duplicate_id(given, upload.id_column or "id", lines[row.query.id], row.line))
            lines[row.query.id] = row.line
            yield row


def _rejected(filename: str, finding: Finding) -> DatasetRejected:
    return DatasetRejected(
        f"{filename} cannot be used: {finding.message}",
        code=finding.code,
        param=finding.path,
        line=finding.line,
        hint=finding.fix,
    )


def check_split(
    labeled: Sequence[Example],
    unlabeled: Sequence[Query],
    held_out: Sequence[Example],
    *,
    validation: Sequence[Example] = (),
    k: int = 0,
    allow: Collection[str] = (),
) -> tuple[Finding, ...]:
    """What is wrong between the files of a job. Codes in `allow` become warnings; the report records them all the same.

    `k` is the number of demonstrations wanted: more than the labeled rows is an error (`cross_field`).
    """
    pairs = Pairs(labeled, unlabeled, held_out, validation)
    found = [
        *pairs.finding("labeled", "test", "test_leakage", "error", "Take these rows out of the test file."),
        *pairs.finding("labeled", "validation", "validation_leakage", "error", "Take these rows out of the validation file."),
        *pairs.finding("unlabeled", "test", "unlabeled_in_test", "warning", "The report says so; scores may be too high."),
        *pairs.finding(
            "unlabeled", "validation", "unlabeled_in_validation", "warning", "The report says so; they decide all the same."
        ),
        *pairs.finding(
            "test", "validation", "validation_in_test", "warning", "They are reported, and left out of what decides."
        ),
        *pairs.finding(
            "labeled",
            "unlabeled",
            "labeled_in_unlabeled",
            "warning",
            "A row is never its own neighbour, but it may be trained on twice.",
        ),
        *_conflicts(labeled),
        *_classes(labeled),
    ]
    if k > len(labeled):
        message = f"{k} demonstrations are wanted (propagation.k), but there are {len(labeled)} labeled rows."
        found.append(
            Finding(
                code="cross_field", message=message, path="propagation.k", fix=f"Set propagation.k to at most {len(labeled)}."
            )
        )
    return tuple(item.model_copy(update={"severity": "warning"}) if item.code in allow else item for item in found)


def overlaps(split: Split) -> dict[str, int]:
    """For each pair of a job's files, how many rows of the second ask what a row of the first asks, by `row_key`."""
    pairs = Pairs(split.labeled, split.unlabeled, split.held_out, split.validation)
    names = ("labeled/unlabeled", "labeled/test", "labeled/validation", "unlabeled/test", "unlabeled/validation")
    return {name: len(pairs.of(*name.split("/"))) for name in (*names, "test/validation")}


class Pairs:
    """The rows of a job's files by what they ask: each file is hashed once."""

    def __init__(
        self,
        labeled: Sequence[Example],
        unlabeled: Sequence[Query],
        held_out: Sequence[Example],
        validation: Sequence[Example],
    ) -> None:
        files: Mapping[str, Sequence[Example | Query]]
        files = {"labeled": labeled, "unlabeled": unlabeled, "test": held_out, "validation": validation}
        self._keys = {name: _keys(rows) for name, rows in files.items()}

    def of(self, left: str, right: str) -> list[tuple[str, str]]:
        """(id of the first row of `left` that asks the same, id) for every row of `right` that `left` has too."""
        ids = {key: row_id for key, row_id in reversed(self._keys[left])}
        return [(ids[key], row_id) for key, row_id in self._keys[right] if key in ids]

    def finding(self, left: str, right: str, code: str, severity: Literal["error", "warning"], fix: str) -> list[Finding]:
        pairs = self.of(left, right)
        if not pairs:
            return []
        some = ", ".join(f"{a} = {b}" for a, b in pairs[:SHOWN_PAIRS])
        return [
            Finding(
                code=code,
                severity=severity,
                message=f"{len(pairs)} rows of the {right} file are in the {left} file too: {some}.",
                count=len(pairs),
                pairs=tuple(pairs[:SHOWN_PAIRS]),
                fix=fix,
            )
        ]


def _keys(rows: Sequence[Example | Query]) -> list[tuple[bytes, str]]:
    return [(row_key(row.query if isinstance(row, Example) else row), row.id) for row in rows]


def _conflicts(labeled: Sequence[Example]) -> list[Finding]:
    first: dict[bytes, Example] = {}
    pairs = []
    for example in labeled:
        earlier = first.setdefault(row_key(example.query), example)
        if _says(earlier) != _says(example):
            pairs.append((earlier.id, example.id))
    if not pairs:
        return []
    return [
        Finding(
            code="conflicting_labels",
            severity="warning",
            message=f"{len(pairs)} labeled rows ask what an earlier row asks and have another target.",
            count=len(pairs),
            pairs=tuple(pairs[:SHOWN_PAIRS]),
            fix="Correct one of each.",
        )
    ]


def _says(example: Example) -> str:
    options = example.query.options
    return normalised(options[LETTERS.index(example.answer)] if options else example.answer)


def _classes(labeled: Sequence[Example]) -> list[Finding]:
    counts = Counter(_says(example) for example in labeled)
    if len(counts) == 1 and len(labeled) > 1:
        message = f"All {len(labeled)} labeled rows have the answer {next(iter(counts))[:80]!r}."
        return [Finding(code="single_class", message=message, count=len(labeled), fix="Add labeled rows of the other classes.")]
    rare = [label for label, count in counts.items() if count < 2]
    if rare and len(counts) <= len(labeled) / 2:  # else answers are texts, not classes
        message = f"Classes with one labeled row: {len(rare)} ({', '.join(label[:40] for label in rare[:SHOWN_PAIRS])})."
        return [
            Finding(code="rare_class", severity="warning", message=message, count=len(rare), fix="Add rows of these classes.")
        ]
    return []

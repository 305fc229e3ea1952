"""CSV and TSV with a header, held to RFC 4180 where the standard library is silent.

`csv.reader` merges everything after an unclosed quote into one cell; here that names the line the quote was opened on.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence

from worker.semisup.ingest.findings import Finding, Refusal
from worker.semisup.ingest.row import Row

MAX_CELL_CHARS = 100_000
MAX_RECORD_CHARS = 1_000_000  # a record that goes on for longer is an unclosed quote; bounds memory


def read_csv(lines: Iterable[tuple[int, str]], delimiter: str) -> tuple[tuple[str, ...], Iterator[Row | Finding]]:
    """The header and the rows. Raises Refusal for a header that cannot be used, the rows raise it for an unclosed quote."""
    records = _records(_Feed(lines), delimiter)
    first = next(records, None)
    if isinstance(first, Finding):
        raise Refusal(**first.model_dump(exclude_none=True))
    if first is None:
        raise Refusal("dataset_empty", "The file holds 0 rows.", fix="Upload a file with at least one row.")
    columns = _header(*first)
    return columns, _rows(records, columns)


class _Feed:
    """The lines `csv.reader` pulls, with those of the record it is in."""

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self._lines = iter(lines)
        self.record: list[str] = []
        self.start = 0
        self.chars = 0

    def clear(self) -> None:
        self.record, self.chars = [], 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, text = next(self._lines)
        if not self.record:
            self.start = number
        self.record.append(text)
        self.chars += len(text)
        if self.chars > MAX_RECORD_CHARS and len(self.record) > 1:
            raise csv.Error("record too long")
        return text + "\n"


def _records(feed: _Feed, delimiter: str) -> Iterator[tuple[int, list[str]] | Finding]:
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _fault(feed, delimiter, str(error))
            continue
        if cells:
            yield feed.start, cells


def _fault(feed: _Feed, delimiter: str, reason: str) -> Finding:
    opened = feed.start + _quote_opened(feed.record, delimiter)
    last = feed.start + len(feed.record) - 1
    if opened < last or "unexpected end" in reason:
        raise Refusal(
            "unclosed_quote",
            f"The quote opened on line {opened} is not closed.",
            line=opened,
            got=feed.record[opened - feed.start],
            fix=f'Close it; write a quote inside a quoted cell as "". A cell holds at most {MAX_CELL_CHARS:,} characters.',
        )
    if "field limit" in reason:
        return _too_long(last, None)
    return Finding(
        code="bad_quote",
        message=f"Line {last}: a quoted cell goes on after its closing quote.",
        line=last,
        got=feed.record[-1][:200],
        fix='Write a quote inside a quoted cell as "".',
    )


def _quote_opened(record: Sequence[str], delimiter: str) -> int:
    """Offset in `record` of the line that opened the quote at fault: the one still open, or closed in the middle of a cell."""
    opened, state = 0, "start"  # start of a cell, plain cell, quoted cell, after a quote inside a quoted cell
    for offset, line in enumerate(record):
        for char in line + "\n":
            if state == "quoted":
                state = "after" if char == '"' else "quoted"
            elif state == "after" and char == '"':
                state = "quoted"
            elif char == delimiter or char == "\n":
                state = "start"
            elif state == "after":
                return opened
            elif state == "start" and char == '"':
                opened, state = offset, "quoted"
            else:
                state = "plain"
    return opened


def _header(line: int, cells: list[str]) -> tuple[str, ...]:
    while len(cells) > 1 and not cells[-1].strip():
        cells.pop()  # trailing delimiters
    columns = tuple(cell.strip() or f"column_{i}" for i, cell in enumerate(cells, 1))  # pandas leaves its index column unnamed
    for i, name in enumerate(columns):
        if name in columns[:i]:
            raise Refusal(
                "duplicate_column",
                f"The header names the column {name[:80]!r} twice.",
                line=line,
                path=name[:80],
                fix="Rename one of them.",
            )
    return columns


def _rows(records: Iterator[tuple[int, list[str]] | Finding], columns: tuple[str, ...]) -> Iterator[Row | Finding]:
    width = len(columns)
    for record in records:
        if isinstance(record, Finding):
            yield record
            continue
        line, cells = record
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if len(cells) != width:
            yield Finding(
                code="wrong_column_count",
                message=f"Line {line} has {len(cells)} columns; the header has {width}.",
                line=line,
                got=str(len(cells)),
                fix=f"Give the row {width} cells; put a cell that holds the delimiter in quotes.",
            )
        elif long := next((name for name, cell in zip(columns, cells, strict=True) if len(cell) > MAX_CELL_CHARS), None):
            yield _too_long(line, long)
        else:
            yield Row(line, dict(zip(columns, cells, strict=True)))


def _too_long(line: int, column: str | None) -> Finding:
    return Finding(
        code="cell_too_long",
        message=f"Line {line}: a cell has more than {MAX_CELL_CHARS:,} characters.",
        line=line,
        path=column,
        fix=f"Shorten it to {MAX_CELL_CHARS:,} characters, or upload JSONL.",
    )

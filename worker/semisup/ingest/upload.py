"""One uploaded file, read row by row with its meaning: what validation, preview and loading share."""

from collections.abc import Iterator
from typing import BinaryIO

from worker.semisup.ingest.columns import Layout, Mapped, choose_layout, id_column, map_row
from worker.semisup.ingest.findings import Finding, Format, IngestOptions, Refusal
from worker.semisup.ingest.parquet_reader import MAX_COLUMNS
from worker.semisup.ingest.readers import open_source
from worker.semisup.ingest.row import Row

MAX_NAME_CHARS = 200  # of a JSON key that is listed as a column


class Upload:
    """Iterating gives, in file order, a `Mapped` row or what is wrong with it; what is known of the file fills up meanwhile."""

    def __init__(self, file: BinaryIO, filename: str, options: IngestOptions, prefix: str, *, max_rows: int = 0) -> None:
        """`max_rows`: the row after these ends the reading with a finding; 0: no limit."""
        self._file, self._filename, self._options, self._prefix = file, filename, options, prefix
        self._max_rows = max_rows
        self.format: Format | None = None
        self.layout: Layout | None = None
        self.columns: dict[str, None] = {}  # in order of first sight
        self.id_column: str | None = None
        self._untouched = True  # no row has been understood yet
        self.rows = 0

    def __iter__(self) -> Iterator[tuple[Row | None, Mapped | Finding]]:
        """Pairs of the row as read (None where it could not be) and its meaning. Never raises for what is in the file."""
        try:
            yield from self._read()
        except Refusal as refusal:
            yield None, refusal.finding

    def mapping(self) -> dict[str, str | None]:
        """The column decided on for each part of a row, None where the file has none."""
        if self.layout is None:
            return {}
        first = {
            key: next((name for name in getattr(self.layout, key) if name in self.columns), None)
            for key in ("target", "options")
        }
        return {"input": self.layout.input, **first, "id": self.id_column}

    def _read(self) -> Iterator[tuple[Row | None, Mapped | Finding]]:
        source = open_source(self._file, self._filename, self._options)
        self.format = source.format
        if source.columns is not None:
            self.columns = dict.fromkeys(source.columns)
            self.layout = choose_layout(source.columns, self._options, complete=True)
        for row in source.rows:
            if self._max_rows and self.rows == self._max_rows:
                raise _too_many(self._max_rows, row.line)
            self.rows += 1
            if isinstance(row, Finding):
                yield None, row
            else:
                yield row, self._understand(row)
        if self.rows == 0:
            raise Refusal("dataset_empty", "The file holds 0 rows.", fix="Upload a file with at least one row.")
        self._check_mapped()

    def _understand(self, row: Row) -> Mapped | Finding:
        if self.format == "jsonl" and len(self.columns) < MAX_COLUMNS:
            self.columns.update(dict.fromkeys(name for name in row.values if len(name) <= MAX_NAME_CHARS))
        if self.layout is None:  # JSONL: the first row that can be read tells the file's layout
            self.layout = choose_layout(row.values, self._options, complete=False)
        if self._untouched:
            self.id_column, self._untouched = id_column(self.layout, row.values), False
        try:
            return map_row(row, self.layout, self.id_column, self._options, self._prefix)
        except Refusal as refusal:
            found = refusal.finding
            return found.model_copy(update={"line": row.line, "message": f"Line {row.line}: {found.message}"})

    def _check_mapped(self) -> None:
        """In JSONL a mapped column that no row had is as wrong as one missing in a header."""
        if self.format == "jsonl" and self._options.mapping and len(self.columns) < MAX_COLUMNS:
            choose_layout(self.columns, self._options, complete=True)


def _too_many(limit: int, line: int | None) -> Refusal:
    message = f"The file has more than {limit:,} rows; the first one over is on line {line}."
    return Refusal(
        "too_many_rows", message, line=line, fix=f"Upload at most {limit:,} rows in a file; the operator sets the limit."
    )

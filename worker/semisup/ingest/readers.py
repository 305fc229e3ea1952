"""Files into rows, streaming: JSONL, CSV, TSV, Parquet. The format is found in the content; the file name is a hint.

A reader yields `Row`s and, for a row it cannot read, a `Finding`. It raises Refusal where nothing after that can be trusted.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from worker.semisup.ingest.csv_reader import read_csv
from worker.semisup.ingest.findings import Finding, Format, IngestOptions, Refusal
from worker.semisup.ingest.jsonl_reader import read_jsonl
from worker.semisup.ingest.lines import UTF16, read_lines
from worker.semisup.ingest.parquet_reader import read_parquet
from worker.semisup.ingest.row import Row

HEAD_BYTES = 64 << 10

# What people upload by mistake. Parquet is told apart from these by its own magic.
MAGIC: Mapping[bytes, str] = {
    b"PK\x03\x04": "a zip archive (or an Excel workbook)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "gzip-compressed data",
    b"\x28\xb5\x2f\xfd": "zstd-compressed data",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"SQLite format 3": "a SQLite database",
    b"PARE": "an encrypted Parquet file",
}
EXTENSIONS: Mapping[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """An opened file. `columns` is None where only the rows tell (JSONL)."""

    format: Format
    columns: tuple[str, ...] | None
    rows: Iterator[Row | Finding]


def open_source(file: BinaryIO, filename: str, options: IngestOptions) -> Source:
    """Reads `file` from its start; it must be seekable. Raises Refusal where the content is none of our formats."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    match detect(head, filename, options):
        case "parquet":
            return Source("parquet", *read_parquet(file))
        case "jsonl":
            return Source("jsonl", None, read_jsonl(read_lines(file)))
        case "csv" | "tsv" as kind:
            columns, rows = read_csv(read_lines(file), "," if kind == "csv" else "\t")
            return Source(kind, columns, rows)


def detect(head: bytes, filename: str, options: IngestOptions) -> Format:
    extension = PurePosixPath(filename).suffix.lower()
    declared = options.format if options.format != "auto" else EXTENSIONS.get(extension)
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        raise _empty()
    if head.count(0) * 4 > len(head) and not head.startswith((b"PAR1", *MAGIC, *UTF16)):
        raise Refusal(
            "invalid_utf8",
            "The file is UTF-16 or binary, not UTF-8 (NUL bytes).",
            line=1,
            byte=head.index(0),
            fix="Save the file as UTF-8.",
        )
    found = (
        "parquet" if head.startswith(b"PAR1") else next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    )
    if found is None and not head.startswith(UTF16):
        found = _text_format(head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"), declared)
    if found is None:
        return declared or "csv"  # UTF-16 with its mark: the line reader names the place
    if found not in EXTENSIONS.values() or (options.format != "auto" and found != options.format):
        said = f"declared as {declared}" if declared else "expected to be JSONL, CSV, TSV or Parquet"
        raise Refusal("format_mismatch", f"The file is {found}, but was {said}.", got=found, fix=_FORMAT_FIX)
    return cast(Format, found)


def _empty() -> Refusal:
    return Refusal("dataset_empty", "The file holds 0 rows.", fix="Upload a file with at least one row.")


_FORMAT_FIX = "Upload the data itself as JSONL, CSV, TSV or Parquet, not compressed."


def _text_format(head: str, declared: Format | None) -> Format:
    lines = [line for line in re.split(r"\r\n|\r|\n", head) if line.strip()]
    if not lines:
        raise _empty()  # spaces of other kinds
    first = lines[0].lstrip()
    if first.startswith("[") and declared not in ("csv", "tsv"):
        raise Refusal("use_jsonl", "The file is one JSON array.", line=1, fix="Write one JSON object per line (JSONL).")
    # One broken line at the top does not make a JSONL file a CSV file, and a file called .jsonl is read as such.
    if first.startswith("{") or (declared not in ("csv", "tsv") and any(line.lstrip().startswith("{") for line in lines[1:20])):
        return "jsonl"
    if declared == "jsonl":
        return "jsonl"
    tabs, commas, semicolons = (first.count(mark) for mark in "\t,;")
    if semicolons and not tabs and not commas:
        raise Refusal(
            "wrong_delimiter",
            "The columns are separated by ';'.",
            line=1,
            got=first,
            fix="Separate the columns by ',' (CSV) or by tabs (TSV).",
        )
    if declared == "tsv" or declared == "csv":
        return "tsv" if tabs and not commas else "csv" if commas and not tabs else declared
    return "tsv" if tabs > commas else "csv"

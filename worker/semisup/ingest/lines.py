"""Bytes into text lines: LF, CRLF and bare CR, one UTF-8 BOM dropped, strict UTF-8, constant memory."""

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from worker.semisup.ingest.findings import Refusal

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 8 << 20  # bounds memory: a longer line is no row but a file in another format
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its line end). Raises Refusal `invalid_utf8` or `line_too_long`."""
    offset = 0
    for number, raw in enumerate(_split(file), 1):
        skip = 3 if offset == 0 and raw.startswith(codecs.BOM_UTF8) else 0
        try:
            text = raw[skip:].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(raw, number, offset, skip + error.start) from None
        yield number, text.rstrip("\r\n")
        offset += len(raw)


def _split(file: BinaryIO) -> Iterator[bytes]:
    tail = b""
    while chunk := file.read(CHUNK_BYTES):
        pieces = (tail + chunk).splitlines(keepends=True)
        # The last piece may go on in the next chunk; so may a CR, as CRLF.
        tail = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        yield from pieces
        if len(tail) > MAX_LINE_BYTES:
            raise Refusal(
                "line_too_long",
                f"A line is longer than {MAX_LINE_BYTES:,} bytes.",
                got=tail[:80].decode("utf-8", "replace"),
                fix="Write one row per line.",
            )
    if tail:
        yield tail


def _not_utf8(raw: bytes, line: int, offset: int, at: int) -> Refusal:
    utf16 = line == 1 and raw.startswith(UTF16)
    found = "The file is UTF-16, not UTF-8" if utf16 else f"Line {line} is not UTF-8 at byte {offset + at} (0x{raw[at]:02x})"
    return Refusal(
        "invalid_utf8",
        f"{found}.",
        line=line,
        column=len(raw[:at].decode("utf-8", "replace")) + 1,
        byte=offset + at,
        got=raw[max(0, at - 20) : at + 20].decode("latin-1"),
        fix="Save the file as UTF-8.",
    )

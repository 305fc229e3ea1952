"""A stored blob as an answer: streamed, resumable by Range, revalidated by ETag (its sha256)."""

import re
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from api.errors import BadRange
from models.blobs import blobs

PIECE_BYTES = 256 << 10
_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
MEDIA_TYPES = {".json": "application/json", ".jsonl": "application/jsonl", ".md": "text/markdown; charset=utf-8"}


def download(request: Request, sha256: str, size: int, filename: str) -> Response:
    """200, 206 for one byte range, or 304. Raises BadRange. Several ranges at once get the whole, as RFC 9110 allows."""
    etag = f'"{sha256}"'
    headers = {"etag": etag, "accept-ranges": "bytes", "content-disposition": f"attachment; filename*=UTF-8''{quote(filename)}"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    start, stop = 0, size
    asked = request.headers.get("range")
    partial = asked is not None and request.headers.get("if-range", etag) == etag and _ONE_RANGE.fullmatch(asked)
    if partial:
        start, stop = _range(*partial.groups(), size=size)
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["content-length"] = str(stop - start)
    media = next((kind for ending, kind in MEDIA_TYPES.items() if filename.endswith(ending)), "application/octet-stream")
    source = blobs().open(sha256)  # here, not in the stream: a missing blob must be an error, not a torn 200
    return StreamingResponse(_pieces(source, start, stop), 206 if partial else 200, headers, media)


def _range(first: str, last: str, *, size: int) -> tuple[int, int]:
    if first:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
    else:
        start, stop = max(size - int(last or 0), 0), size
    if start >= stop:
        raise BadRange(
            f"The range is outside the {size} bytes of this content.",
            code="range_not_satisfiable",
            hint="Ask for bytes=0- to start over.",
            headers={"content-range": f"bytes */{size}"},
        )
    return start, stop


def _pieces(source: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with source:
        source.seek(start)
        left = stop - start
        while left > 0 and (piece := source.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece

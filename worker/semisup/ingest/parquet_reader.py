"""Parquet, whose footer is a claim: what a file decodes to is counted while it is decoded, before a row is made of it.

Half a megabyte can hold five million times the same text. Decoding without making Python values of it finds that out in a
fraction of a second; the row group and the limit are named.
"""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from worker.semisup.ingest.findings import Finding, Refusal
from worker.semisup.ingest.row import Row

MAX_COLUMNS = 1000
MAX_DEPTH = 32  # of a nested column, as of JSON
MAX_EXPANSION = 200  # a Parquet file that unpacks to more than this times its size is a bomb, not a data set
SMALL_FILE_BYTES = 1 << 20  # a smaller one may unpack to as much as one of this size
MAX_DECODED_BYTES = 8 << 30
ROW_BYTES = 256  # what a row costs at least, though it holds nothing: a column of nulls decodes to next to nothing
PARQUET_BATCH = 128  # rows decoded at a time
BUFFER_BYTES = 1 << 20  # else a whole column of a row group is read at once

_FIX = "Write the file again, uncompressed or snappy, without encryption."
_BOMB_FIX = "Upload the rows as JSONL, or leave out what repeats."


def read_parquet(file: BinaryIO) -> tuple[tuple[str, ...], Iterator[Row | Finding]]:
    """The columns and the rows. Raises Refusal for a file that cannot be used, the rows raise it where one cannot be read."""
    import pyarrow as pa  # here, not above: only Parquet uploads should pay the import
    import pyarrow.parquet as pq

    unreadable = (pa.ArrowException, OSError, ValueError, OverflowError)  # the last two for values that Python cannot hold
    size = file.seek(0, 2)
    file.seek(0)
    try:
        parquet = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        columns = tuple(parquet.schema_arrow.names)
        claimed = [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups)]
    except MemoryError:
        raise Refusal("too_large", "The Parquet footer does not fit into memory.", fix=_BOMB_FIX) from None
    except unreadable as error:
        raise Refusal("invalid_parquet", f"The Parquet footer cannot be read: {_first_line(error)}", fix=_FIX) from None
    if len(columns) > MAX_COLUMNS:
        raise Refusal(
            "too_many_columns", f"The file has {len(columns)} columns; at most {MAX_COLUMNS} are read.", fix="Drop columns."
        )
    for field in parquet.schema_arrow:
        _check_column(field)
    limit = min(MAX_EXPANSION * max(size, SMALL_FILE_BYTES), MAX_DECODED_BYTES)
    total = 0
    for group, bytes_ in enumerate(claimed):
        total += max(bytes_, 0)
        if total > limit:
            raise _bomb(size, limit, group)
    plain = pa.schema([_plain_field(field) for field in parquet.schema_arrow])
    _check_decoded(parquet, plain, size, limit)

    def rows() -> Iterator[Row | Finding]:
        number = 0
        try:
            for batch in _batches(parquet, plain):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, {name: _plain(value) for name, value in values.items()})
        except unreadable as error:
            raise Refusal(
                "invalid_parquet", f"Row {number + 1} cannot be read: {_first_line(error)}", line=number + 1, fix=_FIX
            ) from None

    return columns, rows()


def _check_decoded(parquet: Any, plain: Any, size: int, limit: int) -> None:
    """Decodes everything once and counts. What cannot be decoded is left to the reader of rows, which names the row."""
    import pyarrow as pa

    decoded = 0
    for group in range(parquet.num_row_groups):
        try:
            for batch in _batches(parquet, plain, row_groups=[group]):
                decoded += batch.nbytes + ROW_BYTES * batch.num_rows
                if decoded > limit:
                    raise _bomb(size, limit, group)
        except MemoryError:  # one batch alone is too much; Arrow's own error is one of these
            raise _bomb(size, limit, group) from None
        except (pa.ArrowException, OSError, ValueError, OverflowError):
            return


def _batches(parquet: Any, plain: Any, **which: Any) -> Iterator[Any]:
    for batch in parquet.iter_batches(batch_size=PARQUET_BATCH, use_threads=False, **which):
        yield batch if batch.schema.types == plain.types else batch.cast(plain)


def _plain_field(field: Any) -> Any:
    """The column with its dictionaries unpacked: pyarrow restores them, and a repeated text would count once a batch."""
    import pyarrow as pa

    kind = field.type
    if pa.types.is_dictionary(kind):
        return _plain_field(field.with_type(kind.value_type))
    if pa.types.is_struct(kind):
        return field.with_type(pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)]))
    if pa.types.is_list(kind):
        return field.with_type(pa.list_(_plain_field(kind.value_field)))
    if pa.types.is_large_list(kind):
        return field.with_type(pa.large_list(_plain_field(kind.value_field)))
    return field


def _bomb(size: int, limit: int, group: int) -> Refusal:
    message = f"The file unpacks from {size:,} to more than {limit:,} bytes, the limit for its size, in row group {group}."
    return Refusal("too_large", message, fix=_BOMB_FIX)


def _check_column(field: Any) -> None:
    """Raises Refusal for a column of an extension type, which would want code of its own, or one nested too deep."""
    level, depth = [field], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            message = f"The column {field.name[:80]!r} is nested deeper than {MAX_DEPTH}."
            raise Refusal("too_deep", message, path=field.name[:80], fix="Flatten the column.")
        for part in level:
            if hasattr(part.type, "extension_name") or b"ARROW:extension:name" in (part.metadata or {}):
                message = f"The column {field.name[:80]!r} is of an extension type."
                raise Refusal("unsupported_column", message, path=field.name[:80], fix="Write it as text or numbers.")
        level = [part.type.field(i) for part in level for i in range(part.type.num_fields)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value  # pandas writes a missing cell as NaN


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__

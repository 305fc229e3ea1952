"""Parquet uploads: what a table held comes back; damaged, odd and exploding files are refused."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.semisup.ingest.columns import Mapped
from worker.semisup.ingest.findings import IngestOptions
from worker.semisup.ingest.upload import Upload
from worker.semisup.ingest.validate import validate


def test_parquet_rows_hold_what_the_table_held() -> None:
    table = {"question": ["q1", "q2"], "options": [["a", "b"], ["c", "d"]], "answer": ["b", None], "score": [1.0, float("nan")]}
    rows = [row for _, row in Upload(io.BytesIO(parquet(table)), "a", IngestOptions(), "x") if isinstance(row, Mapped)]
    assert [(r.line, r.query.options, r.answer) for r in rows] == [(1, ("a", "b"), "B"), (2, ("c", "d"), None)]


def parquet(table: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(table), file)
    return file.getvalue()


GOOD = parquet({"text": [f"row {i}" for i in range(50)], "label": ["a", "b"] * 25})


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (GOOD[:4] + bytes(56) + GOOD[60:], "invalid_parquet", 1),
        (GOOD[:-30], "invalid_parquet", None),
        (parquet({"text": ["a"], "x": pa.array([2**62 + 1], pa.timestamp("ns"))}), "invalid_parquet", 1),
        (parquet({"text": [b"a"]}), "wrong_type", 1),
        (parquet({"text": ["a", None]}), "empty_text", 2),
        (parquet({"text": pa.array([], pa.string())}), "dataset_empty", None),
        (parquet({f"c{i}": [1] for i in range(1001)}), "too_many_columns", None),
        (parquet({"text": ["x" * 1000] * 300_000}), "too_large", None),
    ],
)
def test_bad_parquet_is_refused(content: bytes, code: str, line: int | None) -> None:
    (finding,) = validate(io.BytesIO(content), "a.parquet").errors
    assert (finding.code, finding.line) == (code, line)
    assert finding.fix


@given(st.lists(st.tuples(st.integers(4, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_parquet_never_raises(damage: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for place, byte in damage:
        content[place] = byte
    report = validate(io.BytesIO(bytes(content)), "a.parquet")
    assert report.ok == (not report.errors)

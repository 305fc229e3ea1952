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


def parquet(table: dict[str, Any], extensions: dict[str, str] | None = None) -> bytes:
    """`extensions`: columns that say they are of such a type."""
    made = pa.table(table)
    for name, kind in (extensions or {}).items():
        field = made.schema.field(name).with_metadata({"ARROW:extension:name": kind, "ARROW:extension:metadata": "x"})
        made = made.cast(pa.schema([field if old.name == name else old for old in made.schema]))
    file = io.BytesIO()
    pq.write_table(made, file)
    return file.getvalue()


def _nested(depth: int) -> Any:
    kind = pa.string()
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.nulls(1, kind)


GOOD = parquet({"text": [f"row {i}" for i in range(50)], "label": ["a", "b"] * 25})


def test_dictionaries_come_back_as_the_values_they_stand_for() -> None:
    colours = pa.array(["red", "blue", "red"]).dictionary_encode()
    turns = pa.array([["a", "b"], ["c", "d"], ["a", "b"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    rows = [row for _, row in Upload(io.BytesIO(parquet({"text": colours, "options": turns})), "a", IngestOptions(), "x")]
    assert [(row.query.question, row.query.options) for row in rows if isinstance(row, Mapped)] == [
        ("red", ("a", "b")),
        ("blue", ("c", "d")),
        ("red", ("a", "b")),
    ]


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
        (parquet({"text": pa.nulls(2_000_000, pa.string())}), "too_large", None),
        (parquet({"text": pa.array([[["x"] * 1000] * 1000] * 60)}), "too_large", None),
        (parquet({"text": _nested(40)}), "too_deep", None),
        (parquet({"text": pa.array(["a"]), "x": pa.array(["1"]).cast(pa.json_())}), "unsupported_column", None),
        (parquet({"text": pa.array(["a"]), "x": [[b"1" * 16]]}, {"x": "arrow.py_extension_type"}), "unsupported_column", None),
        (GOOD[:-12] + (2**31 - 1).to_bytes(4, "little") + GOOD[-8:-4] + b"PAR1", "invalid_parquet", None),
        (b"PARE" + bytes(40) + b"PARE", "format_mismatch", None),
        (parquet({f"c{i}": [1] for i in range(10_000)}), "too_many_columns", None),
    ],
)
def test_bad_parquet_is_refused(content: bytes, code: str, line: int | None) -> None:
    (finding,) = validate(io.BytesIO(content), "a.parquet").errors
    assert (finding.code, finding.line) == (code, line)
    assert finding.fix


def test_a_footer_that_lies_about_its_sizes_is_not_believed() -> None:
    """The footer of a repeated value says how long it is once; the limit names the row group that went over it."""
    file = io.BytesIO()
    text = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 180_000), pa.array(["x" * 1000]))
    pq.write_table(pa.table({"text": text}), file, row_group_size=100_000)
    assert sum(pq.ParquetFile(file).metadata.row_group(i).total_byte_size for i in range(2)) < 100_000
    (finding,) = validate(file, "a.parquet").errors
    assert finding.code == "too_large"
    assert "row group 1" in finding.message
    assert "209,715,200 bytes" in finding.message


def test_an_encrypted_column_is_refused() -> None:
    keys = pytest.importorskip("pyarrow.parquet.encryption", reason="this pyarrow was built without encryption")

    class Plain(keys.KmsClient):  # type: ignore[misc]
        def __init__(self, _config: Any) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _master: str) -> bytes:
            return key.hex().encode()

        def unwrap_key(self, key: bytes, _master: str) -> bytes:
            return bytes.fromhex(key.decode())

    factory = keys.CryptoFactory(Plain)
    for plaintext_footer, code in ((True, "invalid_parquet"), (False, "format_mismatch")):
        how = keys.EncryptionConfiguration(footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plaintext_footer)
        properties = factory.file_encryption_properties(keys.KmsConnectionConfig(), how)
        file = io.BytesIO()
        with pq.ParquetWriter(file, pa.schema([("text", pa.string())]), encryption_properties=properties) as writer:
            writer.write_table(pa.table({"text": ["secret"]}))
        (finding,) = validate(file, "a.parquet").errors
        assert finding.code == code
        assert "crypt" in f"{finding.message} {finding.fix}"


@given(st.lists(st.tuples(st.integers(4, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_parquet_never_raises(damage: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for place, byte in damage:
        content[place] = byte
    report = validate(io.BytesIO(bytes(content)), "a.parquet")
    assert report.ok == (not report.errors)

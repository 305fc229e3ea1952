"""Each way a file can be wrong (reliability.md 5.2) is found with its code, its line, its place and a fix."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest

from worker.semisup.errors import SpecError
from worker.semisup.ingest.validate import validate

HEAD = b"question,options,answer\n"
YES_NO = b'"[""yes"", ""no""]"'
GOOD = b"Is it so?," + YES_NO + b",A\n"


def chat(role: str, content: str) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content}]}).encode()


# id, file name, content, options, code, line, words that message, got or path must hold, word of the fix
CASES: Sequence[tuple[str, str, bytes, dict[str, Any], str, int | None, tuple[str, ...], str]] = [
    ("D1 no bytes", "a.csv", b"", {}, "dataset_empty", None, ("0 rows",), "at least one row"),
    ("D1 white space", "a.jsonl", b"\xef\xbb\xbf \r\n\n", {}, "dataset_empty", None, ("0 rows",), "at least one row"),
    ("D1 header only", "a.csv", HEAD, {}, "dataset_empty", None, ("0 rows",), "at least one row"),
    ("D2 zip as csv", "a.csv", b"PK\x03\x04\x14\x00" + bytes(50), {}, "format_mismatch", None, ("zip", "csv"), "JSONL"),
    ("D2 png as csv", "a.csv", b"\x89PNG\r\n\x1a\n" + bytes(50), {}, "format_mismatch", None, ("PNG", "csv"), "JSONL"),
    ("D2 gzip", "a.jsonl", b"\x1f\x8b\x08" + bytes(9), {}, "format_mismatch", None, ("gzip", "jsonl"), "not compressed"),
    ("D2 declared csv", "a", b'{"text": "x"}\n', {"format": "csv"}, "format_mismatch", None, ("jsonl", "csv"), "JSONL"),
    ("D3 latin-1", "a.csv", b"text,label\nok,a\ncaf\xe9,b\n", {}, "invalid_utf8", 3, ("byte 19", "0xe9"), "UTF-8"),
    ("D3 utf-16", "a.csv", "text,label\nok,a\n".encode("utf-16"), {}, "invalid_utf8", 1, ("UTF-16",), "UTF-8"),
    ("D3 utf-16 unmarked", "a.csv", "text,label\nok,a\n".encode("utf-16-le"), {}, "invalid_utf8", 1, ("UTF-16",), "UTF-8"),
    ("D4 open to the end", "a.csv", b'text,label\nok,a\n"bad,b\nok,c\nok,d\n', {}, "unclosed_quote", 3, ("line 3",), "Close"),
    (
        "D4 quote closed by a later one",
        "a.csv",
        b'text,label\n"one\ntwo",a\n"bad,b\n"fine",c\n',
        {},
        "unclosed_quote",
        4,
        ("line 4",),
        "Close",
    ),
    (
        "D4 second quote of a record",
        "a.csv",
        b'text,label\n"one\ntwo","bad\nx,y\n',
        {},
        "unclosed_quote",
        3,
        ("line 3", 'two","bad'),
        "Close",
    ),
    ("D4 quote inside", "a.csv", b'text,label\n"a "b" c",x\nok,y\n', {}, "bad_quote", 2, ("closing quote",), '""'),
    ("D5 NUL", "a.csv", b"text,label\nok,a\nb\x00d,b\n", {}, "control_character", 3, ("text", "U+0000"), "Delete"),
    ("D5 NUL in JSON", "a.jsonl", b'{"text": "a\\u0000"}\n', {}, "control_character", 1, ("text", "U+0000"), "Delete"),
    ("D6 cell", "a.csv", b"text,label\nok,a\n" + b"x" * 100_001 + b",b\n", {}, "cell_too_long", 3, ("100,000",), "Shorten"),
    ("D6 csv's limit", "a.csv", b"text,label\n" + b"x" * 140_000 + b",b\n", {}, "cell_too_long", 2, ("100,000",), "Shorten"),
    ("D7 short row", "a.csv", b"text,label\nok,a\nalone\n", {}, "wrong_column_count", 3, ("1 columns", "has 2"), "2 cells"),
    ("D7 long row", "a.csv", b"text,label\nok,a\n\na,b,c\n", {}, "wrong_column_count", 4, ("3 columns", "has 2"), "2 cells"),
    ("D8 header", "a.csv", b"text,label,text\na,b,c\n", {}, "duplicate_column", 1, ("'text'",), "Rename"),
    ("D9 no prompt", "a.csv", b"questoin,answer\na,b\n", {}, "missing_column", 1, ("'questoin'", "'answer'"), "'question'"),
    (
        "D9 mapped",
        "a.csv",
        b"headline,label\na,b\n",
        {"mapping": {"input": "headlin"}},
        "missing_column",
        1,
        ("headlin", "'headline'"),
        "'headline'",
    ),
    (
        "D9 mapped target",
        "a.jsonl",
        b'{"text": "a", "mood": "b"}\n',
        {"mapping": {"target": "moood"}},
        "missing_column",
        1,
        ("moood",),
        "'mood'",
    ),
    ("D10 blank", "a.csv", b"text,label\nok,a\n   ,b\n", {}, "empty_text", 3, ("text",), "Fill"),
    ("D11 none", "a.csv", b"text,label\nok,a\nb, \n", {"role": "labeled"}, "bad_label", 3, ("no target",), "unlabeled file"),
    (
        "D11 case",
        "a.csv",
        b"text,label\nok,a\nb,A\n",
        {"labels": ["a", "b"]},
        "bad_label",
        3,
        ("'A'", "'a', 'b'"),
        "Write 'a'",
    ),
    ("D11 unknown", "a.csv", b"text,label\nok,c\n", {"labels": ["a", "b"]}, "bad_label", 2, ("'c'", "'a', 'b'"), "allowed"),
    ("D11 letter", "a.csv", HEAD + GOOD + b"b?," + YES_NO + b",C\n", {}, "bad_label", 3, ("'C'", "'A', 'B'", "yes"), "allowed"),
    ("D11 option's case", "a.csv", HEAD + b"b?," + YES_NO + b",Yes\n", {}, "bad_label", 2, ("'Yes'",), "Write 'yes'"),
    ("D16 ids", "a.csv", b"id,text\nu1,a\nu2,b\nu1,c\n", {}, "duplicate_id", 4, ("'u1'", "line 2"), "of its own"),
    ("D16 no id", "a.jsonl", b'{"id": 1, "text": "a"}\n{"text": "b"}\n', {}, "missing_id", 2, ("id",), "all rows"),
    ("D17 blank line", "a.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n\n', {}, "blank_line", 2, ("Line 2",), "Delete"),
    ("D17 array line", "a.jsonl", b'{"text": "a"}\n["b"]\n', {}, "not_object", 2, ("array",), "{"),
    ("D17 invalid", "a.jsonl", b'{"text": "a"}\n{"text": "b",}\n', {}, "invalid_json", 2, ("character",), "comma"),
    ("D17 first line invalid", "a.jsonl", b'oops\n{"text": "b"}\n', {}, "invalid_json", 1, ("oops",), "one JSON object"),
    ("D17 nested text", "a.jsonl", b'{"text": {"a": 1}}\n', {}, "wrong_type", 1, ("an object", "text"), "text"),
    ("D17 NaN", "a.jsonl", b'{"text": "a", "x": NaN}\n', {}, "not_finite", 1, ("NaN",), "null"),
    ("D17 1e999", "a.jsonl", b'{"text": "a", "x": -1e999}\n', {}, "not_finite", 1, ("too large",), "null"),
    ("duplicate key", "a.jsonl", b'{"text": "a", "text": "b"}\n', {}, "duplicate_key", 1, ("'text'",), "Keep one"),
    ("half a character", "a.jsonl", b'{"text": "\\ud83d"}\n', {}, "invalid_unicode", 1, ("surrogate",), "both halves"),
    ("33 deep", "a.jsonl", b'{"text": ' + b"[" * 32 + b"]" * 32 + b"}\n", {}, "too_deep", 1, ("32",), "Flatten"),
    ("100,000 deep", "a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", {}, "too_deep", 1, ("32",), "Flatten"),
    ("5,000 digits", "a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", {}, "out_of_range", 1, ("digits",), "string"),
    ("D18 array", "a.json", b'[{"text": "a"},\n {"text": "b"}]', {}, "use_jsonl", 1, ("array",), "JSONL"),
    ("D19 truncated", "a.parquet", b"PAR1" + bytes(40), {}, "invalid_parquet", None, ("footer",), "again"),
    ("D27 semicolons", "a.csv", b"text;label\na;b\n", {}, "wrong_delimiter", 1, ("';'",), "','"),
    ("role", "a.jsonl", chat("usr", "a"), {}, "invalid_role", 1, ("messages[0].role",), "'user'"),
    ("empty turn", "a.jsonl", chat("user", ""), {}, "empty_text", 1, ("messages[0]",), "Fill"),
    ("order", "a.jsonl", chat("system", "a"), {}, "role_order", 1, ("user",), "End with"),
    ("options", "a.csv", HEAD + b"a,yes|no,A\n", {}, "bad_options", 2, ("JSON list", "yes|no"), '["yes", "no"]'),
    ("one option", "a.csv", HEAD + b'a,"[""x""]",A\n', {}, "bad_options", 2, ("1 options",), '["yes", "no"]'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "options", "code", "line", "words", "fix"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_bad_file_is_failed_with_code_line_and_fix(
    name: str, content: bytes, options: dict[str, Any], code: str, line: int | None, words: tuple[str, ...], fix: str
) -> None:
    report = validate(io.BytesIO(content), name, options)

    assert not report.ok
    assert report.error_counts == {code: 1}
    (finding,) = report.errors
    assert (finding.code, finding.line, finding.severity) == (code, line, "error")
    told = f"{finding.message} {finding.got} {finding.path}"
    assert all(word in told for word in words), told
    assert fix in (finding.fix or ""), finding.fix
    assert len(finding.got or "") <= 200


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b'text,label\n"one\n1",a\ntwo,b\nthree,c\n', 5),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n\n{"text": "c"}\n', 4),
    ],
)
def test_the_first_row_over_the_limit_is_named_and_nothing_after_it_is_read(name: str, content: bytes, line: int) -> None:
    """D20. A bad row is a row: of the second file's three the second is a blank line."""
    limit = 2 if name == "a.csv" else 3
    report = validate(io.BytesIO(content), name, max_rows=limit)
    finding = report.errors[-1]
    assert (finding.code, finding.line, report.status) == ("too_many_rows", line, "failed")
    assert f"more than {limit} rows" in finding.message
    assert f"at most {limit} rows" in (finding.fix or "")
    assert report.rows == limit
    for enough in (limit + 1, limit + 2, 0):
        assert "too_many_rows" not in validate(io.BytesIO(content), name, max_rows=enough).error_counts


def test_the_byte_of_a_broken_character_is_its_offset_in_the_file() -> None:
    content = b"\xef\xbb\xbftext,label\r\nok,a\r\ncaf\xe9,b\r\n"
    (finding,) = validate(io.BytesIO(content), "a.csv").errors
    assert finding.byte == content.index(b"\xe9")
    assert finding.column == 4


def test_every_bad_row_is_reported_and_the_good_ones_still_count() -> None:
    rows = [b'{"text": "a", "label": "x"}', b"{", b'{"text": ""}', b'{"text": "b", "label": "y"}', b"[]", b'{"text": "c"}']
    report = validate(io.BytesIO(b"\n".join(rows)), "a.jsonl")
    assert [(finding.line, finding.code) for finding in report.errors] == [
        (2, "invalid_json"),
        (3, "empty_text"),
        (5, "not_object"),
    ]
    assert (report.rows, report.labeled, report.unlabeled) == (6, 2, 1)
    assert [(warning.code, warning.count, warning.lines) for warning in report.warnings] == [("mixed_labels", 1, (6,))]


def test_errors_are_capped_but_all_counted() -> None:
    report = validate(io.BytesIO(b'{"text": "a"}\n' + b"nonsense\n" * 1500), "a.jsonl")
    assert len(report.errors) == 1000
    assert report.error_counts == {"invalid_json": 1500}


def test_conflicting_labels_name_both_lines() -> None:
    content = b"text,label\nThe  same,a\nother,b\nthe same,c\nOther ,b\n"
    report = validate(io.BytesIO(content), "a.csv")
    assert report.ok
    assert [(w.code, w.lines, w.count) for w in report.warnings] == [
        ("conflicting_labels", (2, 4), 1),
        ("duplicate_rows", (5,), 1),
    ]


def test_the_same_answer_under_another_letter_is_no_conflict() -> None:
    content = HEAD + b'q?,"[""yes"", ""no""]",A\nq?,"[""no"", ""yes""]",B\nq?,"[""no"", ""yes""]",A\n'
    report = validate(io.BytesIO(content), "a.csv")
    assert [(w.code, w.lines) for w in report.warnings] == [("conflicting_labels", (2, 4)), ("duplicate_rows", (3,))]


def test_labels_that_differ_in_case_only_are_warned_about() -> None:
    report = validate(io.BytesIO(b"text,label\na,Yes\nb,yes\nc,no\n"), "a.csv")
    assert [(w.code, w.count) for w in report.warnings] == [("label_variants", 2)]


@pytest.mark.parametrize(
    ("options", "code", "param", "hint"),
    [
        ({"maping": {}}, "unknown_field", "dataset.maping", "'mapping'"),
        ({"mapping": {"inpt": "a"}}, "unknown_field", "dataset.mapping.inpt", "'input'"),
        ({"format": "xlsx"}, "unknown_choice", "dataset.format", None),
        ({"labels": []}, "invalid_value", "dataset.labels", None),
    ],
)
def test_options_that_are_wrong_name_the_field(options: dict[str, Any], code: str, param: str, hint: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        validate(io.BytesIO(b"text\na\n"), "a.csv", options)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert hint is None or hint in (caught.value.hint or "")

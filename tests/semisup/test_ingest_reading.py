"""What good files look like: formats, layouts, encodings; the same rows come out however they were written."""

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.semisup.data import Message, Query
from worker.semisup.ingest.columns import Mapped
from worker.semisup.ingest.findings import IngestOptions
from worker.semisup.ingest.text import normalised, row_key
from worker.semisup.ingest.upload import Upload
from worker.semisup.ingest.validate import preview, validate

ROOT = Path(__file__).parents[2]


def read(content: bytes, name: str = "a", **options: Any) -> list[Mapped]:
    rows = [row for _, row in Upload(io.BytesIO(content), name, IngestOptions.of(options), "x")]
    assert all(isinstance(row, Mapped) for row in rows), rows
    return rows  # type: ignore[return-value]


def one(row: dict[str, Any], **options: Any) -> Mapped:
    (mapped,) = read(json.dumps(row).encode() + b"\n", **options)
    return mapped


SYSTEM = {"role": "developer", "content": "Be brief."}
USER = {"role": "user", "content": "Hi?"}
BOT = {"role": "assistant", "content": "Ho."}


@pytest.mark.parametrize(
    ("row", "messages", "response"),
    [
        ({"messages": [SYSTEM, USER, BOT]}, [("system", "Be brief."), ("user", "Hi?")], "Ho."),
        ({"messages": [USER, {**BOT, "weight": 0}]}, [("user", "Hi?")], None),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}]}, [("user", "Hi?")], None),
        ({"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho."}]}, [("user", "Hi?")], "Ho."),
        ({"request": {"model": "m", "messages": [USER]}, "response": {"choices": [{}]}}, [("user", "Hi?")], None),
        ({"custom_id": "c", "url": "/v1/chat/completions", "body": {"messages": [USER]}}, [("user", "Hi?")], None),
        ({"prompt": "2+2=", "completion": " 4"}, [("user", "2+2=")], "4"),
        ({"prompt": "2+2=", "completion": None}, [("user", "2+2=")], None),
        ({"instruction": "Add.", "input": "2, 2", "output": "4"}, [("user", "Add.\n\n2, 2")], "4"),
        ({"instruction": "Add.", "input": "", "output": ""}, [("user", "Add.")], None),
        ({"question": "2+2?", "answer": 4}, [("user", "2+2?")], "4"),
        ({"question": "2+2?", "gt": "never read"}, [("user", "2+2?")], None),
        ({"text": "lost card", "intent": "card"}, [("user", "lost card")], "card"),
        ({"text": "lost card", "label": True}, [("user", "lost card")], "true"),
    ],
)  # fmt: skip
def test_each_layout_is_recognised(row: dict[str, Any], messages: list[tuple[str, str]], response: str | None) -> None:
    mapped = one(row)
    assert mapped.query.messages == tuple(Message(role, content) for role, content in messages)  # type: ignore[arg-type]
    assert (mapped.response, mapped.answer) == (response, response)


@pytest.mark.parametrize(("answer", "letter"), [("B", "B"), ("no", "B"), (" yes ", "A"), ("2", "B"), (1, "A")])
def test_an_answer_given_as_letter_text_or_number_becomes_the_letter(answer: object, letter: str) -> None:
    mapped = one({"question": "q", "options": ["yes", "no"], "answer": answer})
    assert mapped.query.options == ("yes", "no")
    assert (mapped.response, mapped.answer, mapped.target_text) == (letter, letter, {"A": "yes", "B": "no"}[letter])


def test_options_come_as_a_list_as_json_text_or_by_letter() -> None:
    for options in (["x", "y"], '["x", "y"]', {"A": "x", "B": "y"}):
        assert one({"question": "q", "options": options}).query.options == ("x", "y")


def test_a_mapping_overrides_what_would_be_found() -> None:
    row = {"question": "a title", "body_text": "the text", "answer": "no", "mood": "glad", "uid": 7}
    mapped = one(row, mapping={"input": "body_text", "target": "mood", "id": "uid"})
    assert (mapped.query, mapped.answer) == (Query("x-7", (Message("user", "the text"),)), "glad")
    assert one(row, mapping={"target": None}).answer is None


def test_ids_of_the_file_are_prefixed_and_missing_ones_are_made_of_the_line() -> None:
    assert [row.query.id for row in read(b"id,text\nq9,a\nq7,b\n")] == ["x-q9", "x-q7"]
    assert [row.query.id for row in read(b'text\n"a\nb"\n\nc\n')] == ["x-000002", "x-000005"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_bom_and_line_ends_are_taken_silently(end: str, bom: bytes, last: bool) -> None:
    table = bom + end.join(["Text,Label", "caf\u00e9,a", '"two', 'lines",b']).encode() + (end.encode() if last else b"")
    assert [(r.line, r.query.question, r.answer) for r in read(table)] == [(2, "caf\u00e9", "a"), (3, "two\nlines", "b")]
    lines = bom + end.join(['{"text": "caf\u00e9"}', '{"text": "b"}']).encode() + (end.encode() if last else b"")
    assert [(r.line, r.query.question) for r in read(lines)] == [(1, "caf\u00e9"), (2, "b")]


@pytest.mark.parametrize(
    ("content", "name", "format_"),
    [
        (b"text\tlabel\na, b\tc\n", "a.tsv", "tsv"),
        (b"text\tlabel\na, b\tc\n", "a.csv", "tsv"),
        (b'text,label\n"a, b",c\n', "a.txt", "csv"),
        (b'text,label,,\n"a, b",c,,\n', "a.csv", "csv"),
        (b",text,label\n0,\"a, b\",c\n", "pandas.csv", "csv"),
        (b'{"text": "a, b", "label": "c"}\n', "a.csv", "jsonl"),
        (b'text,label\n"a, b","c"\n', "a.parquet", "csv"),
    ],
)  # fmt: skip
def test_the_content_decides_the_format(content: bytes, name: str, format_: str) -> None:
    assert validate(io.BytesIO(content), name).format == format_
    assert [(row.query.question, row.answer) for row in read(content, name)] == [("a, b", "c")]


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n\t",;|\u2028\ufeff\u202e'), min_size=1, max_size=40
)
ROWS = st.lists(st.tuples(TEXT, TEXT).filter(lambda row: all(cell.strip() for cell in row)), min_size=1, max_size=8)


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.sampled_from([",", "\t"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_rows_written_as_csv_come_back(rows: list[tuple[str, str]], end: str, delimiter: str, quoting: Any) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator=end, delimiter=delimiter, quoting=quoting).writerows([("text", "label"), *rows])
    back = read(file.getvalue().encode(), "a.csv")
    assert [(row.query.question, row.response) for row in back] == [(a.strip(), b.strip()) for a, b in rows]


@given(ROWS, st.booleans())
def test_rows_written_as_json_lines_come_back(rows: list[tuple[str, str]], ascii_: bool) -> None:
    content = "\n".join(json.dumps({"prompt": a, "completion": b}, ensure_ascii=ascii_) for a, b in rows)
    back = read(content.encode(), "a.jsonl")
    assert [(row.query.question, row.response) for row in back] == [(a.strip(), b.strip()) for a, b in rows]


@example(b"\x0b", "a.csv")
@given(st.binary(max_size=300) | TEXT.map(str.encode), st.sampled_from(["a.csv", "a.jsonl", "a.parquet", "a"]))
def test_no_bytes_make_validation_or_preview_raise(content: bytes, name: str) -> None:
    report = validate(io.BytesIO(content), name)
    assert report.ok == (not report.errors)
    assert report.model_validate_json(report.model_dump_json()) == report
    assert len(preview(io.BytesIO(content), name, None, 3).rows) <= 3


@given(TEXT)
def test_texts_that_look_alike_have_one_key(text: str) -> None:
    def key(question: str) -> bytes:
        return row_key(Query("q", (Message("user", question),)))

    assert key(f"  {text}\u3000") == key(text)
    assert normalised("\uff21\u00a0\ufb01 x") == "a fi x"
    assert key("a") != key("b")


def test_a_preview_shows_rows_raw_and_as_understood() -> None:
    content = b'text,label\none,a\n" ",b\n' + b"x" * 3000 + b",c\nfour,d\n"
    page = preview(io.BytesIO(content), "a.csv", None, limit=3)
    assert page.mapping == {"input": "text", "target": "label", "options": None, "id": None}
    assert page.rows[0].raw == {"text": "one", "label": "a"}
    assert page.rows[0].mapped is not None
    assert page.rows[0].mapped["messages"] == [{"role": "user", "content": "one"}]
    assert (page.rows[1].mapped, page.rows[1].error and page.rows[1].error.code) == (None, "empty_text")
    assert page.rows[2].raw is not None
    assert len(page.rows[2].raw["text"]) == 2001
    assert page.has_more
    rest = preview(io.BytesIO(content), "a.csv", None, limit=3, offset=3)
    assert [row.line for row in rest.rows] == [5]
    assert not rest.has_more


def test_the_report_counts_sizes_and_labels() -> None:
    content = b"text,label\naaa,x\nb,x\ncc,y\n"
    report = validate(io.BytesIO(content), "a.csv")
    assert report.stats.model_dump() == {
        "chars": {"p50": 3, "p99": 4, "max": 4},
        "words": {"over": {}, "longest": [{"line": line, "words": 2} for line in (2, 3, 4)]},
        "labels": 2,
        "label_distribution": {"x": 2, "y": 1},
    }
    assert (report.bytes, report.sha256) == (26, hashlib.sha256(content).hexdigest())


def test_the_report_names_the_rows_with_the_most_words() -> None:
    turns = [
        {"role": "system", "content": "one two"},
        {"role": "user", "content": "three\n four"},
        {"role": "assistant", "content": "five"},
    ]
    rows = [{"messages": turns}, *({"messages": [{"role": "user", "content": "w " * words}]} for words in (64, 65, 129, 600))]
    rows += [{"messages": [{"role": "user", "content": f"row {number}"}]} for number in range(30)]
    words = validate(io.BytesIO("\n".join(map(json.dumps, rows)).encode()), "a.jsonl").stats.words
    assert words is not None
    assert words.over == {64: 3, 128: 2, 256: 1, 512: 1}
    assert [(row.line, row.words) for row in words.longest[:5]] == [(5, 600), (4, 129), (3, 65), (2, 64), (1, 5)]
    assert len(words.longest) == 20


@pytest.mark.parametrize("kind", ["csv", "jsonl", "one unclosed quote", "one line"])
def test_validation_needs_constant_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("w") as file:
        file.write("" if kind == "jsonl" else "text,label\n" + '"' * (kind == "one unclosed quote"))
        for i in range(150_000):
            text = f"row {i} " + "abcdefghij" * 25
            file.write(
                json.dumps({"text": text}) + "\n" if kind == "jsonl" else f"{text},l{i % 7}" + "\n" * (kind != "one line")
            )
    code = (
        "import resource, sys; from worker.semisup.ingest.validate import validate\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "report = validate(open(sys.argv[1], 'rb'), 'big')\n"
        "print(report.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    assert path.stat().st_size > 36 << 20
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    rows, grown_kib = map(int, done.stdout.split())
    assert rows == (150_000 if kind in ("csv", "jsonl") else 0)
    assert grown_kib < 40 << 10


def test_ingest_loads_no_network_code() -> None:
    code = "import sys, worker.semisup.ingest.load, worker.semisup.ingest.validate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "sqlalchemy", "pyarrow"} & set(done.stdout.split())

"""The rows of a job: golds apart, ids that cannot collide, and what must hold between the files."""

import io
import json
from dataclasses import fields
from pathlib import Path

import pytest

from worker.semisup.data import Example, Message, Query
from worker.semisup.errors import DatasetRejected
from worker.semisup.ingest.findings import Finding
from worker.semisup.ingest.load import check_split, read_labeled, read_unlabeled
from worker.semisup.ingest.validate import validate

CHOICE = 'question,gt,options,answer\n"Up, or down?",down,"[""up"", ""down""]",B\nLeft?,up,"[""up"", ""down""]",A\n'


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def example(row_id: str, text: str, answer: str, options: tuple[str, ...] = ()) -> Example:
    return Example(Query(row_id, (Message("user", text),), options), answer, answer)


def codes(found: tuple[Finding, ...]) -> list[tuple[str, str, int | None]]:
    return [(finding.code, finding.severity, finding.count) for finding in found]


def test_labeled_rows_keep_file_order_and_letters(tmp_path: Path) -> None:
    rows = read_labeled(write(tmp_path, "blob", CHOICE), "labeled.csv")
    assert rows == (
        example("l-000002", "Up, or down?", "B", ("up", "down")),
        example("l-000003", "Left?", "A", ("up", "down")),
    )


def test_golds_of_unlabeled_rows_are_apart_from_the_rows(tmp_path: Path) -> None:
    queries, gold = read_unlabeled(write(tmp_path, "blob", CHOICE), "pool.csv")
    assert gold == {"u-000002": "B", "u-000003": "A"}
    assert {field.name for field in fields(queries[0])} == {"id", "messages", "options"}
    stripped, none = read_unlabeled(write(tmp_path, "bare", CHOICE.replace(",B\n", ",\n").replace(",A\n", ",\n")), "pool.csv")
    assert (stripped, none) == (queries, {})


def test_a_gold_that_cannot_be_read_is_no_gold_and_no_error(tmp_path: Path) -> None:
    path = write(tmp_path, "blob", CHOICE.replace(",B\n", ",Z\n"))
    assert read_unlabeled(path, "pool.csv")[1] == {"u-000003": "A"}
    with path.open("rb") as file:
        report = validate(file, "pool.csv", {"role": "unlabeled"})
    assert (report.ok, report.labeled, report.unlabeled) == (True, 0, 2)
    assert [(warning.code, warning.count) for warning in report.warnings] == [("labels_ignored", 1)]


def test_the_last_turn_of_a_chat_is_gold_in_an_unlabeled_file(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]
    queries, gold = read_unlabeled(write(tmp_path, "blob", json.dumps({"messages": turns})), "pool.jsonl", None, "p")
    assert queries == (Query("p-000001", (Message("user", "Hi?"),)),)
    assert gold == {"p-000001": "Ho."}


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("text,label\na,x\nb,\n", "bad_label", 3),
        ("id,text,label\n1,a,x\n1,b,y\n", "duplicate_id", 3),
        ("text,label\n", "dataset_empty", None),
    ],
)
def test_a_labeled_file_that_cannot_be_used_is_rejected(tmp_path: Path, content: str, code: str, line: int | None) -> None:
    with pytest.raises(DatasetRejected, match=r"train\.csv cannot be used") as caught:
        read_labeled(write(tmp_path, "blob", content), "train.csv")
    assert (caught.value.code, caught.value.line) == (code, line)
    assert caught.value.hint


def test_a_declared_label_set_is_held_to_in_either_reader(tmp_path: Path) -> None:
    path = write(tmp_path, "blob", "text,label\na,Yes\nb,no\n")
    with pytest.raises(DatasetRejected) as caught:
        read_labeled(path, "a.csv", {"labels": ["yes", "no"]})
    assert (caught.value.code, caught.value.line, caught.value.hint) == ("bad_label", 2, "Write 'yes'.")
    assert read_unlabeled(path, "a.csv", {"labels": ["yes", "no"]})[1] == {"u-000003": "no"}


def test_labeled_rows_in_the_test_file_are_an_error_with_five_pairs() -> None:
    labeled = [example(f"l-{i}", f"Text  {i}", "ab"[i % 2]) for i in range(20)]
    held_out = [example(f"t-{i}", f"text {i} ", "a") for i in range(3, 10)]
    (finding,) = check_split(labeled, [], held_out)
    assert (finding.code, finding.severity, finding.count) == ("test_leakage", "error", 7)
    assert finding.pairs == (("l-3", "t-3"), ("l-4", "t-4"), ("l-5", "t-5"), ("l-6", "t-6"), ("l-7", "t-7"))
    assert codes(check_split(labeled, [], held_out, allow={"test_leakage"})) == [("test_leakage", "warning", 7)]


def test_unlabeled_rows_that_are_elsewhere_too_are_warned_about() -> None:
    labeled = [example("l-1", "a", "x"), example("l-2", "b", "y"), example("l-3", "c", "y"), example("l-4", "d", "x")]
    unlabeled = [Query("u-1", (Message("user", "A"),)), Query("u-2", (Message("user", "t"),))]
    found = check_split(labeled, unlabeled, [example("t-1", "t", "x")])
    assert codes(found) == [("unlabeled_in_test", "warning", 1), ("labeled_in_unlabeled", "warning", 1)]


def test_the_same_question_with_other_options_is_another_row() -> None:
    labeled = [example("l-1", "Which?", "A", ("a", "b")), example("l-2", "Who?", "B", ("a", "b"))]
    assert check_split(labeled, [], [example("t-1", "Which?", "A", ("c", "d"))]) == ()
    assert codes(check_split(labeled, [], [example("t-1", "Which?", "A", ("b", "a"))])) == [("test_leakage", "error", 1)]


def test_one_class_alone_is_an_error_and_a_rare_one_a_warning() -> None:
    assert codes(check_split([example(f"l-{i}", str(i), "x") for i in range(4)], [], [])) == [("single_class", "error", 4)]
    mixed = [example(f"l-{i}", str(i), "x" if i else "y") for i in range(4)]
    assert codes(check_split(mixed, [], [])) == [("rare_class", "warning", 1)]
    texts = [example(f"l-{i}", str(i), f"answer {i}") for i in range(4)]
    assert check_split(texts, [], []) == ()


def test_classes_of_a_choice_are_what_the_letters_say() -> None:
    rows = [example("l-1", "p", "A", ("up", "down")), example("l-2", "q", "A", ("down", "up"))]
    assert check_split(rows, [], []) == ()


def test_conflicting_labels_and_too_many_demonstrations_are_told() -> None:
    labeled = [example("l-1", "a", "x"), example("l-2", "A ", "y")]
    found = check_split(labeled, [], [], k=3)
    assert codes(found) == [("conflicting_labels", "warning", 1), ("cross_field", "error", None)]
    assert found[0].pairs == (("l-1", "l-2"),)
    assert "3 demonstrations" in found[1].message
    assert "2 labeled rows" in found[1].message


def test_validation_and_loading_read_the_same_rows(tmp_path: Path) -> None:
    content = "text,label\n" + "".join(f'"row {i}\n{i}",{"ab"[i % 2]}\n' for i in range(50))
    path = write(tmp_path, "blob", content)
    assert len(read_labeled(path, "a.csv")) == validate(io.BytesIO(content.encode()), "a.csv").labeled == 50


def test_one_mapping_serves_the_labeled_and_the_unlabeled_file(tmp_path: Path) -> None:
    mapping = {"mapping": {"input": "headline", "target": "mood"}}
    assert len(read_labeled(write(tmp_path, "l", "headline,mood\na,glad\n"), "l.csv", mapping)) == 1
    assert len(read_unlabeled(write(tmp_path, "u", "headline\nb\n"), "u.csv", mapping)[0]) == 1
    assert len(read_unlabeled(write(tmp_path, "j", '{"headline": "b"}\n'), "u.jsonl", mapping)[0]) == 1

"""Task files, their rows, and what a seed draws from them."""

import json

import pytest

from benchmarks.quality.draw import draw
from benchmarks.quality.errors import BenchError
from benchmarks.quality.rows import load_rows
from benchmarks.quality.tasks import TaskFile, find_tasks, load_task

TASK = """\
name: colours
title: colours
sources:
  - {file: train.csv, role: train}
  - {file: test.csv, role: test}
columns: {question: text, answer: colour}
labeled: {per_class: 2}
unlabeled: 6
test: 4
validation: 3
answer: label
"""


@pytest.fixture
def folder(tmp_path):
    rows = [f"thing {i} is {('red', 'blue')[i % 2]},{('red', 'blue')[i % 2]}" for i in range(16)]
    (tmp_path / "train.csv").write_text("\n".join(["text,colour", *rows]))
    (tmp_path / "test.csv").write_text("\n".join(["text,colour", rows[0], *(f"other {i},red" for i in range(8))]))
    (tmp_path / "colours.yaml").write_text(TASK)
    return tmp_path


def changed(folder, **fields) -> TaskFile:
    task = load_task(folder / "colours.yaml")
    return TaskFile.model_validate(task.model_dump() | fields)


def texts(rows):
    return [getattr(row, "query", row).question for row in rows]


def test_a_new_csv_is_a_new_task_without_code(folder):
    task = load_task(folder / "colours.yaml")
    drawn = draw(task, load_rows(task, folder), 0)
    split = drawn.split
    assert [len(part) for part in (split.labeled, split.unlabeled, split.held_out, split.validation)] == [4, 6, 4, 3]
    assert sorted(e.answer for e in split.labeled) == ["blue", "blue", "red", "red"]
    everything = [*texts(split.labeled), *texts(split.unlabeled), *texts(split.held_out), *texts(split.validation)]
    assert len(set(everything)) == len(everything)
    assert {q.id: q.question.split()[-1] for q in split.unlabeled} == drawn.gold


def test_a_test_row_that_is_in_training_is_dropped_from_test(folder):
    task = changed(folder, test=None)
    assert "thing 0 is red" not in texts(draw(task, load_rows(task, folder), 0).split.held_out)


def test_a_seed_redraws_the_labels_and_leaves_the_test_rows_alone(folder):
    task = load_task(folder / "colours.yaml")
    rows = load_rows(task, folder)
    first, second, again = (draw(task, rows, seed) for seed in (0, 1, 0))
    assert texts(first.split.labeled) != texts(second.split.labeled)
    assert texts(first.split.held_out) == texts(second.split.held_out)
    assert first == again
    assert first.data != second.data


def test_choosing_settings_never_opens_the_test_file(folder):
    task = changed(folder, validation=2)
    (folder / "test.csv").unlink()
    split = draw(task, load_rows(task, folder, roles=frozenset(("train",))), 0, dev=True).split
    assert len(split.held_out) == 4
    assert len(split.validation) == 2
    assert all(text.startswith("thing") for text in texts(split.held_out))


def test_test_rows_can_be_set_apart_where_no_training_row_is_left(folder):
    task = changed(folder, unlabeled=None, validation=3, validation_from="test")
    split = draw(task, load_rows(task, folder), 0).split
    assert [len(part) for part in (split.unlabeled, split.held_out, split.validation)] == [12, 4, 3]
    assert not set(texts(split.held_out)) & set(texts(split.validation))


def test_a_text_in_both_an_unlabeled_and_a_train_file_is_no_validation_row_as_well(folder):
    """As a reader sees it: in other case, with other spaces and with full-width digits too."""
    lines = (folder / "train.csv").read_text().splitlines()[1:]
    wide = str.maketrans("0123456789", "".join(chr(0xFF10 + i) for i in range(10)))
    texts_again = [f"  {line.rpartition(',')[0].upper().translate(wide)} " for line in lines]
    (folder / "more.csv").write_text("\n".join(["text", *texts_again]))
    task = load_task(folder / "colours.yaml")
    sources = [
        *(s.model_dump() for s in task.sources),
        {"file": "more.csv", "role": "unlabeled", "columns": {"question": "text"}},
    ]
    task = changed(folder, sources=sources, unlabeled=6, validation=6)
    rows = load_rows(task, folder)
    for seed in range(5):
        split = draw(task, rows, seed).split
        parts = [split.labeled, split.unlabeled, split.validation]
        keys = [text.casefold().translate({0xFF10 + i: str(i) for i in range(10)}) for part in parts for text in texts(part)]
        assert len(split.validation) > 0
        assert len(set(keys)) == len(keys)


def test_growing_pools_are_nested_and_the_ceiling_sees_all_gold(folder):
    task = load_task(folder / "colours.yaml")
    drawn = draw(task, load_rows(task, folder), 0)
    small = drawn.with_pool(2)
    assert small.split.unlabeled == drawn.split.unlabeled[:2]
    assert (small.labels, small.data == drawn.data) == (drawn.labels, False)
    assert [e.answer for e in drawn.with_gold().split.labeled[4:]] == [drawn.gold[q.id] for q in drawn.split.unlabeled]
    with pytest.raises(BenchError, match="holds 6 rows, fewer than the 7"):
        drawn.with_pool(7)


def test_a_task_with_a_larger_pool_can_take_the_fields_labels_and_test_rows_of_another(folder):
    task = load_task(folder / "colours.yaml")
    (folder / "more.yaml").write_text("name: more\ntitle: more of it\nsame_draw_as: colours\nunlabeled: 9\n")
    larger = load_task(folder / "more.yaml")
    assert larger == changed(folder, name="more", title="more of it", same_draw_as="colours", unlabeled=9, note="")
    alone, rows = changed(folder, name="more", unlabeled=9), load_rows(task, folder)
    for dev in (False, True):
        few = draw(task.model_copy(update={"validation": 1, "test": 2}), rows, 1, dev=dev).split
        many = draw(larger.model_copy(update={"validation": 1, "test": 2}), rows, 1, dev=dev).split
        assert few.labeled == many.labeled
        assert few.unlabeled == many.unlabeled[:6]
        assert (few.held_out == many.held_out) is not dev  # left-over rows are others where the pool is larger
    assert draw(alone, rows, 1).split.labeled != draw(larger, rows, 1).split.labeled


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("colour", "more.yaml: same_draw_as: there is no other task colour beside it; name one of its folder."),
        ("more", "more.yaml: same_draw_as: there is no other task more beside it; name one of its folder."),
        ("most", "more.yaml: same_draw_as: most has no draw of its own; name a task that has."),
        ("broken", "broken.yaml cannot be read as YAML: "),
        ("7", "more.yaml: same_draw_as: Input should be a valid string."),
    ],
)
def test_a_draw_that_cannot_be_shared_is_refused_by_name(folder, name, says):
    (folder / "most.yaml").write_text("name: most\nsame_draw_as: colours\n")
    (folder / "broken.yaml").write_text("name: [")
    (folder / "more.yaml").write_text(f"name: more\ntitle: more\nsame_draw_as: {name}\nunlabeled: 9\n")
    with pytest.raises(BenchError) as caught:
        load_task(folder / "more.yaml")
    assert str(caught.value).startswith(says)


def test_rows_of_json_lists_are_found_by_position(tmp_path):
    rows = [[f"say {i}", ("a", "b")[i % 2], "skip" if i == 3 else "keep"] for i in range(8)]
    (tmp_path / "data.json").write_text(json.dumps({"deep": {"train": rows}}))
    given = {
        **{"name": "j", "title": "j", "answer": "label", "labeled": {"rows": 2}, "columns": {"question": 0, "answer": 1}},
        "sources": [{"file": "data.json", "role": role, "at": "deep.train"} for role in ("train", "test")],
        "answers": ("a", "b"),
        "where": {2: ("keep",)},
    }
    rows = load_rows(TaskFile.model_validate(given), tmp_path)["train"]
    assert [row.question for row in rows] == [f"say {i}" for i in (0, 1, 2, 4, 5, 6, 7)]


def test_a_choice_is_a_letter_even_where_the_file_counts(tmp_path):
    (tmp_path / "c.jsonl").write_text(
        '{"q": "up?", "o": ["yes", "no"], "a": "2"}\n{"q": "down?", "o": ["yes", "no"], "a": "A"}\n'
    )
    given = {
        **{"name": "c", "title": "c", "answer": "choice", "labeled": {"rows": 2}},
        "columns": {"question": "q", "answer": "a", "options": "o"},
        "sources": [{"file": "c.jsonl", "role": role} for role in ("train", "test")],
    }
    rows = load_rows(TaskFile.model_validate(given), tmp_path)["train"]
    assert [(row.options, row.answer) for row in rows] == [(("yes", "no"), "B"), (("yes", "no"), "A")]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"columns": {"question": "txt", "answer": "colour"}}, r"train.csv, row 1 has no column 'txt'; it has text, colour"),
        ({"labeled": {"per_class": 9}}, "wants 9 labeled rows of each answer; too few of"),
        ({"labeled": {"rows": 99}}, "wants 99 labeled rows; its train files hold 16"),
        ({"unlabeled": 99}, "wants 99 unlabeled rows, but 12 are left"),
        ({"sources": [{"file": "gone.csv", "role": "train"}, {"file": "test.csv", "role": "test"}]}, "gone.csv does not exist"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_number(folder, fields, words):
    task = changed(folder, **fields)
    with pytest.raises(BenchError, match=words):
        draw(task, load_rows(task, folder), 0)


def test_a_wrong_task_file_names_its_field(folder):
    (folder / "colours.yaml").write_text(TASK.replace("unlabeled: 6", "unlabelled: 6"))
    with pytest.raises(BenchError, match=r"colours.yaml: unlabelled: Extra inputs"):
        load_task(folder / "colours.yaml")


def test_every_task_of_the_project_can_be_read_and_only_optional_ones_wait_to_be_named():
    names = {task.name for task in find_tasks(None)}
    assert {"banking77-12", "banking77-77", "clinc-banking", "clinc-work", "fpb-100", "fpb-all"} <= names
    assert not {"quick", "arc", *LARGER} & names
    with pytest.raises(BenchError, match="No task is called nope; there are arc, banking77-12"):
        find_tasks("nope")


LARGER = ("banking77-12-1300", "banking77-6000", "clinc-banking-1300", "clinc-work-1300", "fpb-100-1600")


@pytest.mark.parametrize("name", LARGER)
def test_a_task_of_the_project_that_shares_a_draw_differs_from_the_other_in_its_pool_alone(name):
    (larger,) = find_tasks(name)
    (other,) = find_tasks(larger.same_draw_as)
    own = {"name", "title", "note", "optional", "same_draw_as", "unlabeled"}
    assert larger.model_dump(exclude=own) == other.model_dump(exclude=own)
    assert larger.unlabeled > other.unlabeled


def test_tasks_of_the_project_that_read_the_same_files_are_of_one_data_set():
    found: dict[str, set[str]] = {}
    for task in find_tasks(None):
        found.setdefault(task.dataset, set()).add(task.name)
    assert found == {
        "banking77": {"banking77-12", "banking77-77"},
        "clinc150": {"clinc-banking", "clinc-work"},
        "fpb": {"fpb-100", "fpb-all"},
    }
    assert [task.dataset for task in find_tasks(",".join(LARGER))] == ["banking77"] * 2 + ["clinc150"] * 2 + ["fpb"]


def test_the_quick_task_runs_from_the_projects_own_files():
    (task,) = find_tasks("quick")
    split = draw(task, load_rows(task, None), 0).split
    assert [len(part) for part in (split.labeled, split.unlabeled, split.held_out, split.validation)] == [60, 300, 200, 100]


def test_a_task_of_real_data_asks_for_its_folder():
    (task,) = find_tasks("fpb-100")
    with pytest.raises(BenchError, match=r"give the folder that holds fpb/labeled.csv as --data PATH"):
        load_rows(task, None)

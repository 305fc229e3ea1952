"""Rows against what the LM reads: prompts lose their front, responses lose nothing, and one that cannot fit is named."""

import csv
import json
import sys
from pathlib import Path

import pytest

from tests.semisup.builders import TINY_JOB, examples
from tests.semisup.trainings import recipe
from worker.semisup import __main__ as command
from worker.semisup.data import Example, Message, Query, Split
from worker.semisup.errors import DataError
from worker.semisup.inputs import Source, load_inputs
from worker.semisup.lengths import LEAST_PROMPT, check_responses, tokens_read
from worker.semisup.spec import JobSpec, Training
from worker.semisup.stages.fit import fit
from worker.semisup.task import make_task

LIMIT = 512
LONG = " ".join(f"word{i}" for i in range(400))  # more tokens than words, as always


def text_task(lab, rows, **propagation):
    given = {**TINY_JOB, "answer": {"kind": "text"}, "propagation": {"k": 2, **propagation}}
    return make_task(lab, JobSpec.model_validate(given), Split(rows, (), ()))


def row(lab, tokens: int, identity: str = "l-000100", question: str = "why is item 1 painted red") -> Example:
    """A labeled row whose response has that many tokens, the end token included."""
    response = "red" + " red" * (tokens - len(lab.encode_response("red")))
    assert len(lab.encode_response(response)) == tokens
    return Example(Query(identity, (Message("user", question),)), response, response)


def files(lab, folder: Path, *tokens: int) -> Path:
    """Labeled rows with ids of their own that are numbers, but of no line; those of `tokens` are on lines 8, 9, …"""
    rows = [*examples("l", 6), *(row(lab, count) for count in tokens)]
    with (folder / "labeled.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        writer.writerows([f"{900 + i:06d}", f"{e.query.question} {i}", e.response] for i, e in enumerate(rows))
    return folder / "labeled.csv"


def test_a_response_the_lm_cannot_read_is_named_by_its_line(lab, tmp_path):
    fits = Source.at(files(lab, tmp_path, LIMIT - LEAST_PROMPT))
    spec = JobSpec.model_validate({"answer": {"kind": "text"}, "propagation": {"k": 2}})
    check_responses(lab, load_inputs(spec, fits, None, None), fits)
    over = Source.at(files(lab, tmp_path, 20, LIMIT - LEAST_PROMPT + 1, 700))
    with pytest.raises(DataError, match=r"line 9 \(497 tokens\), line 10 \(700 tokens\)\.") as caught:
        check_responses(lab, load_inputs(spec, over, None, None), over)
    assert (caught.value.code, caught.value.param, caught.value.line) == ("text_too_long", "training_file", 9)
    assert "512 tokens that tiny-llama reads" in caught.value.message
    assert "Shorten" in str(caught.value.hint)


def test_few_words_of_many_tokens_end_the_command_before_anything_is_trained(lab, llama, cache, tmp_path, monkeypatch, capsys):
    """What the front end lets through: fewer words than the LM reads tokens."""
    labeled = files(lab, tmp_path, 700)
    (tmp_path / "unlabeled.jsonl").write_text("".join(json.dumps({"text": f"item {i}"}) + "\n" for i in range(4)))
    (tmp_path / "spec.yaml").write_text(json.dumps({**TINY_JOB, "answer": {"kind": "text"}}))
    given = [tmp_path / "spec.yaml", labeled, tmp_path / "unlabeled.jsonl", tmp_path / "out", "--lm", llama, "--cache", cache]
    monkeypatch.setattr(sys, "argv", ["semisup", *map(str, given), "--threads", "1"])
    assert command.main() == 2
    assert "line 8 (700 tokens). Shorten" in capsys.readouterr().err
    assert not (tmp_path / "out" / "stages").exists()


@pytest.mark.parametrize("room", ["auto", 8])
def test_no_training_row_is_longer_than_the_lm_reads_and_no_response_loses_anything(lab, room):
    """`max_new_tokens: 8` leaves 504 tokens to prompts, and a labeled response may have more than 8 all the same."""
    counts = (5, 100, 300, LIMIT - LEAST_PROMPT)
    rows = tuple(row(lab, tokens, f"l-{tokens:06d}", LONG) for tokens in counts)
    task = text_task(lab, rows, max_new_tokens=room)
    made = task.tokens(rows, "plain")
    assert [len(one.response) for one in made] == list(counts)
    assert max(one.length for one in made) == LIMIT
    assert all(one.length <= LIMIT for one in made)
    assert task.max_length + task.max_new_tokens <= LIMIT
    alone = lab.encode_prompt(rows[0].query.messages, 10**6)
    assert all(list(one.prompt) == alone[-len(one.prompt) :] for one in made), "the front is what is left out"


def test_a_row_as_long_as_the_lm_reads_can_be_trained_on(lab):
    rows = (row(lab, LIMIT - LEAST_PROMPT, "l-000001", LONG), row(lab, 4, "l-000002", LONG))
    made = text_task(lab, rows).tokens(rows, "plain")
    assert made[0].length == LIMIT
    adapter = fit(lab, None, made, recipe(n_epochs=1), Training(), seed=1)
    assert adapter.steps == 1


def test_what_a_tokenizer_does_not_say_the_configuration_does(lab, tmp_path, monkeypatch):
    assert tokens_read(lab) == LIMIT
    monkeypatch.setattr(lab.tokenizer, "model_max_length", 10**30)
    assert tokens_read(lab) == LIMIT
    monkeypatch.setattr(lab, "base", tmp_path)
    assert tokens_read(lab) is None
    (tmp_path / "config.json").write_text(json.dumps({"n_positions": 1024}))
    assert tokens_read(lab) == 1024

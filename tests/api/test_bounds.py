"""D20: too many rows are refused, rows that are too long are told. (Too many bytes: test_files.py, test_limits.py.)"""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.fine_tuning.lengths import BUNDLED_TOKENS, LEAST_PROMPT, lm_tokens
from tests.api.rows import labeled, unlabeled
from tests.api.sending import JOBS, SEMI, upload
from tests.conftest import Configure


def refused(response: Any) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    return dict(response.json()["error"])


def order(app: TestClient, **files: bytes) -> Any:
    """A job on these files, by request field; the training file is a good one unless given."""
    ids = {name: upload(app, content) for name, content in {"training_file": labeled(), **files}.items()}
    training, validation = ids.pop("training_file"), ids.pop("validation_file", None)
    body: dict[str, Any] = {"model": "semift-small", "training_file": training, "validation_file": validation}
    if ids:
        body["method"] = {"type": "semi_supervised", "semi_supervised": ids}
    return app.post(JOBS, json=body)


def with_words(*counts: int) -> bytes:
    """Six good labeled rows, and then one for each count of words: those begin on line 7."""
    rows = [
        {"text": " ".join(f"w{number}x{i}" for i in range(words - 1)), "label": "pos"} for number, words in enumerate(counts)
    ]
    return labeled(6) + "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_file_with_too_many_rows_says_where_and_is_no_training_file(app: TestClient, configure: Configure) -> None:
    configure(max_rows=12)
    assert order(app, unlabeled_file=unlabeled(12)).status_code == 200
    error = refused(order(app, unlabeled_file=unlabeled(13)))
    assert (error["code"], error["param"], error["line"]) == ("invalid_unlabeled_file", f"{SEMI}.unlabeled_file", 13)
    assert "too_many_rows: line 13: The file has more than 12 rows" in error["message"]
    assert error["hint"] == "Upload at most 12 rows in a file; the operator sets the limit."
    file = upload(app, labeled(13))
    report = app.get(f"/v1/files/{file}/validation").json()
    assert (report["status"], report["error_counts"]) == ("failed", {"too_many_rows": 1})


def told(app: TestClient, made: Any) -> list[dict[str, Any]]:
    """Events of rows that are cut."""
    assert made.status_code == 200, made.text
    events = app.get(f"{JOBS}/{made.json()['id']}/events").json()["data"]
    return [event for event in events if event["level"] == "warn" and event["data"].get("code") == "truncated_tokens"]


def test_rows_the_language_model_cannot_read_whole_are_told(app: TestClient) -> None:
    assert told(app, order(app, training_file=with_words(BUNDLED_TOKENS))) == []
    (warned,) = told(app, order(app, training_file=with_words(BUNDLED_TOKENS + 1, 5, 700)))
    assert warned["data"] == {"code": "truncated_tokens", "count": 2, "param": "training_file", "lines": [9, 7]}
    assert "at least 2 rows are longer than the 512 tokens that semift-small reads" in warned["message"]
    (warned,) = told(app, order(app, unlabeled_file=with_words(600)))
    assert (warned["data"]["param"], warned["data"]["lines"]) == (f"{SEMI}.unlabeled_file", [7])


def test_all_rows_that_are_too_long_are_counted_and_some_are_named(app: TestClient) -> None:
    (warned,) = told(app, order(app, unlabeled_file=with_words(*range(1000, 1030))))
    assert "at least 30 rows are" in warned["message"]
    assert "(lines 36, 35, 34, 33, 32 …)" in warned["message"]


def test_rows_that_only_the_order_s_own_limit_cuts_are_told_too(app: TestClient) -> None:
    semi = {"unlabeled_file": upload(app, unlabeled()), "hyperparameters": {"max_length": 64}}
    method = {"type": "semi_supervised", "semi_supervised": semi}
    training = upload(app, with_words(100, 40, 65))
    made = app.post(JOBS, json={"model": "semift-small", "training_file": training, "method": method})
    (warned,) = told(app, made)
    assert warned["data"] == {"code": "truncated_tokens", "count": 2, "param": "training_file", "lines": [7, 9]}
    assert "at least 2 rows are longer than max_length, 64 tokens" in warned["message"]


@pytest.mark.parametrize("part", ["propagation", "resolve"])
def test_a_response_longer_than_what_the_language_model_reads_is_not_asked_for(app: TestClient, part: str) -> None:
    def asked(tokens: int) -> Any:
        method = {"type": "semi_supervised", "semi_supervised": {"unlabeled_file": rows, part: {"max_new_tokens": tokens}}}
        return app.post(JOBS, json={"model": "semift-small", "training_file": training, "method": method})

    rows, training = upload(app, unlabeled()), upload(app, labeled())
    most = BUNDLED_TOKENS - LEAST_PROMPT
    assert asked(most).status_code == 200
    error = refused(asked(most + 1))
    assert (error["code"], error["param"]) == ("cross_field", f"{SEMI}.{part}.max_new_tokens")
    assert error["hint"].startswith(f"Set it to at most {most}")


@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        ({"tokenizer_config.json": {"model_max_length": 4096}, "config.json": {"max_position_embeddings": 32768}}, 4096),
        ({"tokenizer_config.json": {"model_max_length": 1e30}, "config.json": {"max_position_embeddings": 32768}}, 32768),
        ({"config.json": {"n_positions": 1024}}, 1024),
        ({"config.json": {"max_position_embeddings": None}}, None),
        ({}, None),
    ],
)
def test_what_an_lm_reads_is_found_in_its_folder(files: dict[str, Any], tokens: int | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert lm_tokens(str(tmp_path)) == tokens


def test_the_bundled_one_reads_what_is_said_here() -> None:
    source = (Path(__file__).parents[2] / "worker" / "semisup" / "bundled.py").read_text(encoding="utf-8")
    assert f"model_max_length={BUNDLED_TOKENS}," in source
    assert lm_tokens("bundled:3") == BUNDLED_TOKENS
    lengths = (Path(__file__).parents[2] / "worker" / "semisup" / "lengths.py").read_text(encoding="utf-8")
    assert f"LEAST_PROMPT = {LEAST_PROMPT}  #" in lengths

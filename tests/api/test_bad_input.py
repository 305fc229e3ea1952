"""Every bad request and every bad data set these routes can meet: status, code, place, fix, nothing created, never a 5xx.

The letters are those of the design's bad-input matrix: B for HTTP and JSON, D for data sets, J for job specs; F is the
multipart form, C the carriers of the semi-supervised fields.
"""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from models.db import transaction
from models.tables import Event, Job, Outbox
from tests.api.more_cases import MORE
from tests.api.rows import labeled, unlabeled
from tests.api.sending import (
    JOBS,
    JSON,
    SEMI,
    Case,
    World,
    bad_upload,
    data,
    deleted,
    form,
    get,
    held_out,
    nested,
    new_world,
    no_job,
    put,
    put_in,
    raw,
    rejected,
    semi,
    training,
    upload,
    with_rows,
)

FORM = "multipart/form-data; boundary=b"
TORN = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx'
ZIP, PNG = b"PK\x03\x04" + b"\0" * 60, b"\x89PNG\r\n\x1a\n" + b"\0" * 60

CASES = [
    # --- HTTP and JSON
    Case("B1 truncated", raw(b'{"model":\n "semi'), 400, "invalid_json", "line 2 column 2", line=2),
    Case("B2 empty", raw(b""), 400, "empty_body", "JSON object"),
    Case("B2 spaces", raw(b" \n"), 400, "empty_body"),
    Case("B3 list", raw(b"[]"), 400, "wrong_type", "must be an object, got an array"),
    Case("B3 string", raw(b'"x"'), 400, "wrong_type", "must be an object"),
    Case("B3 null", raw(b"null"), 400, "wrong_type", "got null"),
    Case("B4 duplicate key", raw(b'{"model":"a","model":"b"}'), 400, "duplicate_key", "'model' twice"),
    Case("B4 duplicate key below", raw(b'{"method":{"type":"a","type":"b"}}'), 400, "duplicate_key", "'type'", "method"),
    Case("B5 unknown", put("trainig_file", "x"), 400, "unknown_field", "mean 'training_file'", "trainig_file"),
    Case("B5 epocs", semi("hyperparameters.n_epocs", 3), 400, "unknown_field", "'n_epochs'", f"{SEMI}.hyperparameters.n_epocs"),
    Case("B5 in a list", semi("propagation.collaborators", [{"name": "a", "temp": 1}]), 400, "unknown_field", "temperature",
         f"{SEMI}.propagation.collaborators.0.temp"),
    Case("B5 in a union", semi("selection", {"strategy": "percentile", "thetta": 3}), 400, "unknown_field", "'theta'",
         f"{SEMI}.selection.thetta"),
    Case("B6 NaN", raw(b'{"seed": NaN}'), 400, "not_finite", "NaN", "seed"),
    Case("B6 1e999", raw(b'{"method":{"a":[1, 1e999]}}'), 400, "not_finite", "1e999", "method.a.1"),
    Case("B7 surrogate", raw(b'{"suffix":"\\ud800"}'), 400, "invalid_unicode", "U+D800", "suffix"),
    Case("B7 surrogate key", raw(b'{"\\ud800":1}'), 400, "invalid_unicode", "U+D800", "'\\\\ud800'"),
    Case("B8 NUL", put("suffix", "a\x00b"), 400, "control_character", "U+0000", "suffix"),
    Case("B8 tab in metadata", put("metadata", {"a\tb": "x"}), 400, "control_character", "U+0009", "metadata.'a\\tb'"),
    Case("B9 int over 64 bits", put("seed", 2**63), 400, "out_of_range", "64 bits", "seed"),
    Case("B9 int in a path", get(f"{JOBS}/{2**70}"), 404, "job_not_found", str(2**70)[:10], "fine_tuning_job_id"),
    Case("B9 int in a query", get(f"{JOBS}/x/samples?round={2**70}"), 400, "invalid_parameter", "1 to 1000", "round"),
    Case("B10 5000 digits", raw(b'{"seed":' + b"9" * 5000 + b"}"), 400, "out_of_range", "64 bits", "seed"),
    Case("B11 true for an int", semi("rounds", True), 400, "wrong_type", "an integer; got a boolean", f"{SEMI}.rounds"),
    Case("B11 string for an int", semi("rounds", "3"), 400, "wrong_type", "got a string", f"{SEMI}.rounds"),
    Case("B11 string for int or auto", semi("hyperparameters.n_epochs", "3"), 400, "wrong_type", "an integer or 'auto'",
         f"{SEMI}.hyperparameters.n_epochs"),
    Case("B11 list for a block", semi("propagation", []), 400, "wrong_type", "an object; got an array", f"{SEMI}.propagation"),
    Case("B11 string for a block", put("method", "x"), 400, "wrong_type", "an object; got a string", "method"),
    Case("B12 nesting 300", raw(nested(300)), 400, "too_deep", "32", line=1),
    Case("B12 nesting 900", raw(nested(900)), 400, "too_deep", "32"),
    Case("B13 nesting 100000", raw(nested(100_000)), 400, "too_deep", "32"),
    Case("B14 invalid UTF-8", raw(b'{"model":"\xff"}'), 400, "invalid_utf8", "byte 10"),
    Case("B15 UTF-16", raw('{"model":"x"}'.encode("utf-16")), 415, "unsupported_charset", "UTF-8"),
    Case("B15 UTF-16 without BOM", raw('{"model":"x"}'.encode("utf-16-le")), 415, "unsupported_charset", "UTF-8"),
    Case("B15 utf-7", raw(b"{}", **{"content-type": "application/json; charset=utf-7"}), 415, "unsupported_charset", "utf-7"),
    Case("B16 two BOMs", raw(b"\xef\xbb\xbf\xef\xbb\xbf{}"), 400, "invalid_json", "line 1"),
    Case("B17 20 MB", raw(b'{"model":"' + b"x" * 20_000_000 + b'"}'), 413, "body_too_large", "256 KiB"),
    Case("B18 text/plain", raw(b"{}", **{"content-type": "text/plain"}), 415, "unsupported_media_type", "application/json"),
    Case("B18 no type", raw(b"{}", **{"content-type": ""}), 415, "unsupported_media_type", "application/json"),
    Case("B19 gzip", raw(b"{}", **{"content-encoding": "gzip"}), 415, "unsupported_encoding", "uncompressed"),
    Case("B21 unknown route", get("/v1/nothing"), 404, "not_found", "/v1/nothing"),
    Case("B21 wrong method", lambda w: w.app.patch(JOBS), 405, "method_not_allowed", "PATCH"),
    Case("B21 wrong method on a model", lambda w: w.app.post("/v1/models/a/b"), 405, "method_not_allowed", "POST"),
    no_job("B22 garbage id", "garbage"),
    Case("B22 NUL in an id", get(f"{JOBS}/1%00"), 404, "not_found", "%00"),
    no_job("B22 emoji", "%F0%9F%98%80"),
    no_job("B22 half a UTF-8 character", "%F0%9F"),
    Case("B22 up", get(f"{JOBS}/..%2F..%2Fetc"), 404, "not_found"),
    Case("B22 result file", get("/v1/files/file-result-AAAA"), 404, "file_not_found", "result", "file_id"),
    Case("B22 file", get("/v1/files/file-0/content"), 404, "file_not_found", "file-0", "file_id"),
    Case("B29 limit 0", get(f"{JOBS}?limit=0"), 400, "invalid_parameter", "1 to 1000", "limit"),
    Case("B29 limit -1", get(f"{JOBS}?limit=-1"), 400, "invalid_parameter", "1 to 1000", "limit"),
    Case("B29 limit 1e3", get("/v1/files?limit=1e3"), 400, "invalid_parameter", "1 to 10000", "limit"),
    Case("B29 limit 10^9", get(f"{JOBS}?limit=1000000000"), 400, "invalid_parameter", "1 to 1000", "limit"),
    Case("B29 order", get(f"{JOBS}?order=up"), 400, "invalid_parameter", "asc, desc", "order"),
    Case("B29 cursor", get(f"{JOBS}?after=ftjob-1"), 400, "invalid_cursor", "ftjob-1", "after"),
    Case("B29 NUL cursor", get(f"{JOBS}?after=%00"), 400, "invalid_parameter", "NUL"),
    Case("B29 nll", get(f"{JOBS}/x/samples?min_mean_nll=nan"), 400, "invalid_parameter", "number", "min_mean_nll"),
    # --- the multipart form
    Case("F no file", bad_upload(media=FORM, content=b"--b--\r\n"), 400, "missing_field", "file", "file"),
    Case("F no boundary", bad_upload(media="multipart/form-data"), 400, "invalid_request", "boundary"),
    Case("F torn", bad_upload(media=FORM, content=TORN), 400, "missing_field", "file", "file"),
    Case("F JSON", bad_upload(media="application/json"), 415, "unsupported_media_type", "multipart/form-data"),
    Case("F no purpose", bad_upload(), 400, "missing_field", "purpose", "purpose"),
    Case("F purpose", bad_upload(purpose="fine-tunes"), 400, "unknown_choice", "mean 'fine-tune'", "purpose"),
    Case("F unknown field", form(datasets="x"), 400, "unknown_field", "'dataset'", "datasets"),
    Case("F unknown option", form(**{"dataset[formt]": "csv"}), 400, "unknown_field", "format", "dataset.formt"),
    Case("F unknown mapping", form(dataset='{"mapping":{"inputs":"q"}}'), 400, "unknown_field", "'input'",
         "dataset.mapping.inputs"),
    Case("F broken JSON field", form(dataset="{"), 400, "invalid_json", "line 1", line=1),
    Case("F NUL", form(**{"dataset[mapping][input]": "\x00"}), 400, "control_character", "U+0000",
         "dataset.mapping.input"),
    Case("F expiry", form(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}), 400,
         "out_of_range", "between 3600 and 2592000", "expires_after.seconds"),
    Case("F twice", form(**{"dataset[format]": "csv", "dataset": "{}"}), 400, "duplicate_key", "twice", "dataset"),
    # --- data sets
    rejected("D1 empty", data(b""), "dataset_empty"),
    rejected("D1 header only", data(b"text,label\n"), "0 rows"),
    rejected("D2 zip", data(ZIP), "zip"),
    rejected("D2 png", data(PNG, "rows.jsonl"), "format_mismatch"),
    rejected("D3 Latin-1", data(with_rows().replace(b"good 3", b"caf\xe9")), "invalid_utf8", 5),
    rejected("D4 unclosed quote", data(with_rows('"open,a', "x,b", "y,a")), "unclosed_quote", 8),
    rejected("D5 NUL", data(with_rows("a\x00b,a")), "control_character", 8),
    rejected("D6 long cell", data(with_rows("x" * 100_001 + ",a")), "cell_too_long", 8),
    rejected("D7 ragged", data(with_rows("a,b,c")), "wrong_column_count", 8),
    rejected("D8 duplicate header", data(b"text,text\na,b\n"), "duplicate_column", 1),
    rejected("D9 missing column", data(with_rows(), **{"dataset[mapping][input]": "txt"}), "missing_column"),
    rejected("D10 blank question", data(with_rows("  ,a")), "empty_text", 8),
    rejected("D11 no label", training(labeled() + b'{"text": "x"}\n'), "no target"),
    rejected("D11 label not declared", data(with_rows("x,c"), dataset='{"labels":["a","b"]}'), "bad_label", 8),
    rejected("D11 no labels at all", training(unlabeled()), "0 labeled rows of 12"),
    Case("D11 one label", training(labeled(1)), 400, "too_few_labeled", "at least 2", "training_file"),
    Case("D13 one class", training(b"".join(labeled(24).splitlines(True)[::2])), 400, "single_class", "class", "training_file"),
    Case("D15 leakage", held_out(labeled(6)), 400, "test_leakage", "6 rows", f"{SEMI}.test_file"),
    Case("D15 leakage of what decides", lambda w: put("validation_file", upload(w.app, labeled(6), "v.csv"))(w), 400,
         "validation_leakage", "6 rows", "validation_file"),
    Case("D bad unlabeled file", lambda w: put(f"{SEMI}.unlabeled_file", upload(w.app, b"", "u.csv"))(w), 400,
         "invalid_unlabeled_file", "dataset_empty", f"{SEMI}.unlabeled_file"),
    Case("D bad validation file", lambda w: put("validation_file", upload(w.app, b"", "v.csv"))(w), 400,
         "invalid_validation_file", "dataset_empty", "validation_file"),
    # --- job specs
    *(
        Case(f"J1 {model}", put("model", model), 400, "model_not_allowed", "semift-small", "model")
        for model in ("semift-smal", "../m", "https://example.com/m", "file:///etc", "m#/../etc", "x" * 2000, "")
    ),
    *(
        Case(f"J2 {key}", semi(key, "x"), 400, "unknown_field", f"Unknown field '{SEMI}.{key}'", f"{SEMI}.{key}")
        for key in ("trust_remote_code", "chat_template", "engine_url", "callback")
    ),
    Case("J3 unknown file", put("training_file", "file-unknown"), 400, "file_not_found", "file-unknown", "training_file"),
    Case("J3 unknown unlabeled", semi("unlabeled_file", "file-x"), 400, "file_not_found", "file-x", f"{SEMI}.unlabeled_file"),
    Case("J3 deleted", deleted, 400, "file_not_found", "file-", "training_file"),
    Case("J4 labeled is unlabeled", semi("unlabeled_file", "$labeled"), 400, "same_dataset", "'training_file'",
         f"{SEMI}.unlabeled_file"),
    Case("J4 test is labeled", semi("test_file", "$labeled"), 400, "same_dataset", "'training_file'", f"{SEMI}.test_file"),
    Case("J4 test is unlabeled", semi("test_file", "$unlabeled"), 400, "same_dataset", "unlabeled_file'", f"{SEMI}.test_file"),
    Case("J4 validation is labeled", put("validation_file", "$labeled"), 400, "same_dataset", "'training_file'",
         "validation_file"),
    *(
        Case(f"J5 {path}={value}", semi(path, value), 400, "out_of_range", says, f"{SEMI}.{path}")
        for path, value, says in (
            ("rounds", 0, "between 1 and 10"),
            ("rounds", -1, "between 1 and 10"),
            ("rounds", 10**6, "between 1 and 10"),
            ("hyperparameters.learning_rate", 0.0, "above 0 and at most 1"),
            ("hyperparameters.learning_rate", -1e-4, "above 0 and at most 1"),
            ("hyperparameters.learning_rate", 10.0, "above 0 and at most 1"),
            ("hyperparameters.n_epochs", 0, "between 1 and 1000"),
            ("hyperparameters.batch_size", 0, "between 1 and 4096"),
            ("hyperparameters.lora.r", 0, "between 1 and 512"),
            ("propagation.k", 33, "between 1 and 32"),
            ("propagation.max_new_tokens", 9000, "between 1 and 8192"),
            ("resolve.max_new_tokens", -5, "between 1 and 8192"),
            ("warmup.n_epochs", 0, "between 1 and 1000"),
            ("evolve.n_epochs", 10**6, "between 1 and 1000"),
            ("evaluation.held_out_fraction", 1.0, "above 0 and below 1"),
            ("seed", -1, "between 0 and"),
            ("seed", 2**31, "between 0 and"),
        )
    ),
    Case("J5 theta", semi("selection", {"strategy": "percentile", "theta": 101.0}), 400, "out_of_range", "between 0 and 100",
         f"{SEMI}.selection.theta"),
    Case("J5 agreement", semi("selection", {"strategy": "agreement", "min_agreement": 1.5}), 400, "out_of_range",
         "above 0 and at most 1", f"{SEMI}.selection.min_agreement"),
    Case("J5 no collaborators", semi("propagation.collaborators", []), 400, "cross_field", "1 to 16 collaborators",
         f"{SEMI}.propagation"),
    Case("J5 top-level seed", put("seed", -1), 400, "out_of_range", "between 0 and", "seed"),
    Case("J5 OpenAI hyperparameters", put("hyperparameters.n_epochs", 0), 400, "out_of_range", "between 1 and 1000",
         "hyperparameters.n_epochs"),
    Case("J6 k over labeled rows", semi("propagation.k", 13), 400, "cross_field", "13 demonstrations", f"{SEMI}.propagation.k"),
    Case("J6 default k", training(labeled(2)), 400, "cross_field", "2 labeled rows", f"{SEMI}.propagation.k"),
    Case("J6 names of collaborators", semi("propagation.collaborators", [{"name": "a"}, {"name": "a"}]), 400, "cross_field",
         "distinct names", f"{SEMI}.propagation.collaborators"),
    Case("J6 collaborator in two places", semi("propagation.collaborators", [{"name": "a", "lm": "x", "engine": "y"}]), 400,
         "cross_field", "exclude each other", f"{SEMI}.propagation.collaborators.0.lm"),
    Case("J6 LM of a collaborator", semi("propagation.collaborators", [{"name": "a"}, {"name": "b", "lm": "semift-smal"}]), 400,
         "model_not_allowed", "mean 'semift-small'", f"{SEMI}.propagation.collaborators.1.lm"),
    Case("J6 adapter of a collaborator", semi("propagation.collaborators", [{"name": "a", "adapter": "ft:no"}]), 400,
         "model_not_found", "'ft:no'", f"{SEMI}.propagation.collaborators.0.adapter"),
    Case("J6 engine of a collaborator", semi("propagation.collaborators", [{"name": "a", "engine": "big"}]), 400,
         "unknown_engine", "Offered: none", f"{SEMI}.propagation.collaborators.0.engine"),
    Case("J7 label set", semi("answer", {"kind": "label", "labels": ["pos", "negative"]}), 400, "task_mismatch", "neg",
         f"{SEMI}.answer.labels"),
    Case("J9 strategy", semi("selection", {"strategy": "percentil"}), 400, "unknown_choice", "mean 'percentile'",
         f"{SEMI}.selection.strategy"),
    Case("J9 no strategy", semi("selection", {"min_agreement": 1.0}), 400, "unknown_field", "theta",
         f"{SEMI}.selection.min_agreement"),
    Case("J9 resolver", semi("resolve.resolver", "juztify"), 400, "unknown_choice", "mean 'justify'",
         f"{SEMI}.resolve.resolver"),
    Case("J9 method", put("method.type", "dpo"), 400, "unknown_choice", "supervised", "method.type"),
    Case("J11 suffix", put("suffix", "x" * 65), 400, "invalid_value", "pattern", "suffix"),
    Case("J11 spaces", put("suffix", "   "), 400, "invalid_value", "pattern", "suffix"),
    Case("J metadata", put("metadata", {str(i): "x" for i in range(17)}), 400, "out_of_range", "16", "metadata"),
    Case("J metadata value", put("metadata", {"a": "x" * 513}), 400, "out_of_range", "512", "metadata.a"),
    Case("J integrations", put("integrations", [{"type": "wandb"}]), 400, "unsupported_value", "Leave", "integrations"),
    # --- the four carriers
    Case("C two carriers", put("semi_supervised", {"unlabeled_file": "file-other"}), 400, "conflicting_fields",
         f"'{SEMI}.unlabeled_file'", "semi_supervised.unlabeled_file"),
    Case("C metadata against method", put("metadata", {"semi.unlabeled_file": "file-other"}), 400, "conflicting_fields",
         f"'{SEMI}.unlabeled_file'", "metadata.semi.unlabeled_file"),
    Case("C two seeds", lambda w: w.app.post(JOBS, json={**put_in(w, "seed", 1), "seed": 2}), 400, "conflicting_fields",
         f"'{SEMI}.seed'", "seed"),
    Case("C metadata field", put("metadata", {"semi.round": "3"}), 400, "unknown_field", "'rounds'", "metadata.semi.round"),
    Case("C metadata type", put("metadata", {"semi.rounds": "three"}), 400, "wrong_type", "an integer", "metadata.semi.rounds"),
    Case("C metadata block and field", put("metadata", {"semi.propagation": "3", "semi.propagation.k": "3"}), 400,
         "conflicting_fields", "metadata", "metadata.semi.propagation.k"),
    Case("C supervised with a semi block", put("method.type", "supervised"), 400, "conflicting_fields", "method.type",
         "method.type"),
    Case("C no unlabeled file", lambda w: w.app.post(JOBS, json={**w.order(), "method": {"type": "semi_supervised"}}), 400,
         "missing_field", "Upload", f"{SEMI}.unlabeled_file"),
    Case("C no training file", lambda w: w.app.post(JOBS, json={"model": "semift-small"}), 400, "missing_field",
         "'training_file'", "training_file"),
]  # fmt: skip


@pytest.fixture
def world(app: TestClient) -> World:
    return new_world(app)


def created() -> tuple[int, ...]:
    """Jobs, events, doorbells."""
    with transaction(read_only=True) as session:
        return tuple(session.execute(select(func.count()).select_from(table)).scalar_one() for table in (Job, Event, Outbox))


def check(world: World, case: Case) -> None:
    response = case.send(world)
    assert response.status_code == case.status, response.text
    body = response.json()
    assert list(body) == ["error"]
    error = body["error"]
    assert error["code"] == case.code, error
    assert case.says in f"{error['message']} {error['hint']}", error
    assert error.get("param") == case.param, error
    if case.line is not None:
        assert error["line"] == case.line, error
    assert error["hint"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert error["request_id"] == response.headers["x-request-id"]
    assert len(response.text) < 8000
    assert created() == (0, 0, 0)


# A torn form leaves the half-written part to the garbage collector: Starlette forgets it. It is no error of the parser.
torn_forms = (
    pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)


@torn_forms[0]
@torn_forms[1]
def test_bad_input_is_refused_with_its_place_and_its_fix(app: TestClient, subtests: pytest.Subtests) -> None:
    """All cases on one database: making one takes longer than all of them."""
    world = new_world(app)
    for case in [*CASES, *MORE]:
        with subtests.test(case.name):
            check(world, case)


def test_several_mistakes_are_all_named_at_once(world: World) -> None:
    body = {**world.order(), "suffix": "", "seed": "x", "modle": 1}
    error = world.app.post(JOBS, json=body).json()["error"]
    found = {(one["param"], one["code"]) for one in error["errors"]}
    assert found == {("suffix", "invalid_value"), ("seed", "wrong_type"), ("modle", "unknown_field")}
    assert "2 more" in error["message"]


def test_a_file_nobody_has_read_yet_is_not_ready(app: TestClient, configure: Any) -> None:
    configure(inline_validation_bytes=0)
    file = upload(app, labeled())
    assert app.get(f"/v1/files/{file}").json()["status"] == "uploaded"
    assert app.get(f"/v1/files/{file}/validation").json()["status"] == "pending"
    response = app.post(JOBS, json={"model": "semift-small", "training_file": file})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "file_not_ready")
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-should-retry"] == "true"


def test_what_looks_odd_but_is_fine_is_accepted(world: World) -> None:
    with_bom = b"\xef\xbb\xbf" + json.dumps(put_in(world, "system_prompt", "One line.\n\tAnother.")).encode()
    assert world.app.post(JOBS, content=with_bom, headers=JSON).status_code == 200
    nulls = {**world.order(), "suffix": None, "metadata": None, "hyperparameters": None, "integrations": []}
    nulls["method"]["semi_supervised"] |= {"rounds": None, "propagation": {"k": None}}
    assert world.app.post(JOBS, json=nulls).json()["spec"]["propagation"]["k"] == 3
    charset = {"content-type": "application/json; charset=UTF-8"}
    assert world.app.post(JOBS, content=json.dumps(world.order()), headers=charset).status_code == 200


def test_leakage_may_be_allowed_and_is_said(world: World) -> None:
    body = put_in(world, "evaluation", {"on_leakage": "allow"})
    body["method"]["semi_supervised"]["test_file"] = upload(world.app, labeled(6))
    job = world.app.post(JOBS, json=body).json()["id"]
    events = world.app.get(f"{JOBS}/{job}/events").json()["data"]
    assert [(event["data"]["code"], event["data"]["count"]) for event in events if event["level"] == "warn"] == [
        ("test_leakage", 6)
    ]


def test_conflicting_labels_are_accepted_with_a_warning_event(world: World) -> None:
    file = upload(world.app, labeled() + b'{"text": "labeled 0", "label": "pos"}\n')
    job = world.app.post(JOBS, json={**world.order(), "training_file": file}).json()["id"]
    events = world.app.get(f"{JOBS}/{job}/events").json()["data"]
    assert [event["data"]["code"] for event in events if event["level"] == "warn"] == ["conflicting_labels"]

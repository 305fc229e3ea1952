"""More cases of the design's bad-input matrix, and where the rows are tested that are no single request.

tests/api/test_matrix.py counts the rows.
"""

import json

from tests.api.rows import labeled
from tests.api.sending import JOBS, JSON, SEMI, Case, data, get, held_out, put, raw, rejected, semi, with_rows

GOOD = labeled(6)


def line(row: str) -> bytes:
    """Six good rows, and then this one, in line 7."""
    return GOOD + row.encode() + b"\n"


def chat(*turns: object) -> bytes:
    good = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n' * 2
    return good + json.dumps({"messages": turns}).encode() + b"\n"


MORE = [
    Case("B3 number", raw(b"12"), 400, "wrong_type", "got an integer"),
    Case("B4 duplicate key in a list", raw(b'{"a":[{"b":1,"b":2}]}'), 400, "duplicate_key", "'b' twice", "a.0"),
    Case("B6 -Infinity", raw(b'{"seed": -Infinity}'), 400, "not_finite", "-Infinity", "seed"),
    Case("B8 NUL key", raw(b'{"a\\u0000":1}'), 400, "control_character", "U+0000", "'a\\x00'"),
    Case("B9 negative", put("seed", -(2**63) - 1), 400, "out_of_range", "64 bits", "seed"),
    Case("B18 form", raw(b"a=1", **{"content-type": "application/x-www-form-urlencoded"}), 415, "unsupported_media_type",
         "application/json"),
    Case("B19 brotli upload", lambda w: w.app.post("/v1/files", content=b"x", headers={
        "content-type": "multipart/form-data; boundary=b", "content-encoding": "br"}), 415, "unsupported_encoding", "'br'"),
    Case("B21 OpenAI has it", get("/v1/chat/completions"), 404, "unsupported_endpoint", "/v1/files"),
    Case("B22 unknown key", lambda w: w.app.delete("/v1/keys/0123456789ac"), 404, "key_not_found", "/v1/keys", "key_id"),
    Case("B22 a million characters", get(f"/v1/files/{'x' * 10_000}"), 404, "file_not_found", "x" * 64, "file_id"),
    Case("B29 tampered cursor of files", get("/v1/files?after=file-0'--"), 400, "invalid_cursor", "last_id", "after"),
    Case("B29 long cursor", get(f"{JOBS}?after={'x' * 300}"), 400, "invalid_parameter", "255", "after"),
    Case("B32 a method nobody has", lambda w: w.app.request("PROPFIND", JOBS), 405, "method_not_allowed", "GET, HEAD, POST"),
    rejected("D2 xlsx under the name of CSV", data(b"PK\x03\x04[Content_Types].xml" + b"\0" * 60, "rows.csv"), "zip"),
    rejected("D3 UTF-16", data(with_rows().decode().encode("utf-16")), "UTF-16"),
    rejected("D5 NUL in the header", data(b"te\x00xt,label\na,b\n"), "missing_column", 1),
    rejected("D5 NUL in a key", data(b'{"te\\u0000xt":"a","label":"b"}\n', "r.jsonl"), "missing_column", 1),
    rejected("D8 duplicate header of three", data(b"text,label,text\na,b,c\n"), "'text'", 1),
    rejected("D9 did you mean", data(with_rows(), **{"dataset[mapping][input]": "txet"}), "'text'"),
    rejected("D11 a space more", data(with_rows('x,"A"'), dataset='{"labels":["a","b"]}'), "bad_label", 8),
    rejected("D14 one text twice with two labels in held-out rows", held_out(b""), "dataset_empty")._replace(
        code="invalid_test_file", param=f"{SEMI}.test_file"),
    rejected("D16 duplicate ids", data(b"id,text,label\n1,x,a\n2,y,b\n1,z,a\n", **{"dataset[mapping][id]": "id"}),
             "duplicate_id", 4),
    rejected("D16 absent id", data(b"id,text,label\n1,x,a\n2,y,b\n,z,a\n", **{"dataset[mapping][id]": "id"}), "missing_id", 4),
    rejected("D16 long id", data(b"id,text,label\n1,x,a\n" + b"9" * 300 + b",y,b\n", **{"dataset[mapping][id]": "id"}),
             "id_too_long", 3),
    rejected("D17 array line", data(line('["a"]'), "r.jsonl"), "not_object", 7),
    rejected("D17 invalid line", data(line('{"text": "a"'), "r.jsonl"), "invalid_json", 7),
    rejected("D17 nested object as text", data(line('{"text": {"a": 1}, "label": "pos"}'), "r.jsonl"), "wrong_type", 7),
    rejected("D17 NaN", data(line('{"text": NaN, "label": "pos"}'), "r.jsonl"), "not_finite", 7),
    rejected("D17 duplicate key", data(line('{"text": "a", "text": "b", "label": "pos"}'), "r.jsonl"), "duplicate_key", 7),
    rejected("D17 no text", data(line('{"label": "pos"}'), "r.jsonl"), "missing_key", 7),
    rejected("D17 no messages", data(chat(), "r.jsonl"), "invalid_messages", 3),
    rejected("D17 a picture", data(chat({"role": "user", "content": [{"type": "image_url"}]}), "r.jsonl"),
             "unsupported_content", 3),
    rejected("D18 one array", data(b"[" + b",".join([b'{"text":"a","label":"b"}'] * 1000) + b"]", "r.jsonl"), "use_jsonl", 1),
    rejected("D21 homoglyph label", data(with_rows("x,\u0430"), dataset='{"labels":["a","b"]}'), "bad_label", 8),
    rejected("D27 semicolons", data(b"text;label\na;b\nc;d\n"), "wrong_delimiter", 1),
    Case("J1 remote code", put("model", "semift-small?trust_remote_code=1"), 400, "model_not_allowed", "semift-small", "model"),
    Case("J5 epochs", semi("hyperparameters.n_epochs", 10**6), 400, "out_of_range", "between 1 and 1000",
         f"{SEMI}.hyperparameters.n_epochs"),
    Case("J10 webhook", put("webhook", "http://127.0.0.1/"), 400, "unknown_field", "'webhook'", "webhook"),
    Case("J11 control characters", put("suffix", "a\x1b[31m"), 400, "control_character", "U+001B", "suffix"),
    Case("J11 HTML", put("suffix", "<b>"), 400, "invalid_value", "pattern", "suffix"),
    Case("J14 version of a spec", semi("version", 2), 400, "unknown_field", "'method.semi_supervised.version'",
         f"{SEMI}.version"),
    Case("J14 version on top", lambda w: w.app.post(JOBS, content=b'{"version": 2}', headers=JSON), 400, "unknown_field",
         "'version'", "version"),
]  # fmt: skip

# Rows that are no single refused request: the test that holds them.
ELSEWHERE = {
    "B16": "tests/api/test_bad_input.py::test_what_looks_odd_but_is_fine_is_accepted",
    "B20": "tests/api/test_limits.py::test_a_body_shorter_than_it_says_is_a_mismatch",
    "B23": "tests/api/test_keys.py::test_every_wrong_key_gets_the_same_answer",
    "B24": "tests/api/test_keys.py::test_a_missing_scope_is_403_and_named",
    "B25": "tests/api/test_quotas.py::test_the_request_after_the_last_is_refused_and_told_when_to_come_back",
    "B26": "tests/api/test_idempotency.py::test_the_same_key_is_answered_alike_for_a_day_and_another_body_is_refused",
    "B27": "tests/api/test_idempotency.py::test_a_key_that_cannot_be_one_is_refused",
    "B28": "tests/api/test_idempotency.py::test_what_is_in_flight_is_told_to_come_again",
    "B30": "tests/api/test_limits.py::test_a_head_that_could_mean_two_things_or_is_endless_closes_the_connection",
    "B31": "tests/api/test_limits.py::test_a_head_that_could_mean_two_things_or_is_endless_closes_the_connection",
    "D12": "tests/api/test_openai_client.py::test_labels_in_the_unlabeled_file_are_said_to_be_ignored",
    "D19": "tests/security/test_readers.py",
    "D20": "tests/api/test_bounds.py",
    "D22": "tests/api/test_matrix.py::test_what_is_odd_in_rows_and_yet_data_comes_back_byte_for_byte",
    "D23": "tests/semisup/test_plain.py",
    "D24": "tests/api/test_uploads.py::test_only_all_of_the_bytes_make_a_file",
    "D25": "tests/api/test_files.py::test_a_file_name_is_text_to_show_and_nothing_else",
    "D26": "tests/api/test_files.py::test_the_same_bytes_twice_are_two_files_and_one_blob",
    "D28": "tests/api/test_openai_client.py::test_a_file_in_use_stays",
    "J8": "tests/api/test_memory.py",
    "J12": "tests/api/test_quotas.py::test_a_tenant_has_only_so_many_jobs_that_have_not_ended",
    "J13": "tests/api/test_openai_client.py::test_a_finished_job_is_not_cancelled_and_the_client_does_not_ask_again",
    "J15": "tests/semisup/test_nothing_selected.py",
    "J16": "tests/semisup/test_nothing_selected.py",
}
DOES_NOT_APPLY: dict[str, str] = {}

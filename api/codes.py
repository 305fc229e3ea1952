"""Every code, in four closed lists: what a request is refused with, what is found in a file, what ends a job or is warned of.

`python -m api.codes` writes them as docs/errors.md. tests/api/test_codes.py holds them to the code and to the tests.
"""

import sys
from collections.abc import Mapping
from typing import NamedTuple

from api.errors import STATUS, Refusal


class Refused(NamedTuple):
    """A code has one meaning; where it names something in a path and something in a body, it has two statuses."""

    statuses: tuple[int, ...]
    means: str


def _one(status: int, means: str) -> Refused:
    return Refused((status,), means)


REFUSALS: Mapping[str, Refused] = {
    # --- the request as such
    "invalid_http": _one(400, "What arrived is not one HTTP request after another; the connection is closed."),
    "head_too_large": _one(431, "A request has more than 100 headers, or more than 64 KiB before its body."),
    "request_timeout": _one(408, "The head or the body of the request came too slowly; the connection is closed."),
    "length_mismatch": _one(400, "The body ended before its Content-Length."),
    "invalid_request": _one(400, "The multipart body cannot be read."),
    "not_found": _one(404, "There is no such route."),
    "unsupported_endpoint": _one(404, "OpenAI has this route, and this server has not."),
    "method_not_allowed": _one(405, "The route has other methods; Allow names them."),
    "unsupported_media_type": _one(415, "The route reads another Content-Type."),
    "unsupported_charset": _one(415, "The body is not UTF-8 by its own account."),
    "unsupported_encoding": _one(415, "The body is compressed."),
    "body_too_large": _one(413, "The JSON body is over SEMIFT_MAX_BODY_BYTES."),
    "file_too_large": _one(413, "The upload is over SEMIFT_MAX_FILE_BYTES."),
    "part_too_large": _one(413, "A part of an upload is over SEMIFT_MAX_PART_BYTES."),
    "range_not_satisfiable": _one(416, "The Range begins behind the end of the content."),
    # --- who asks, and how often
    "unauthorized": _one(401, "No usable key: missing, malformed, unknown, revoked and expired are one answer."),
    "forbidden": _one(403, "The key lacks the scope of the route."),
    "rate_limited": _one(429, "Too many requests; Retry-After says when to go on."),
    "too_many_uploads": _one(429, "The key has SEMIFT_UPLOADS_AT_ONCE uploads under way; Retry-After."),
    "quota_exceeded": _one(429, "The tenant has as many jobs, or bytes, as it may have."),
    "invalid_idempotency_key": _one(400, "The Idempotency-Key is not one header of 1 to 255 visible ASCII characters."),
    "idempotency_key_reused": _one(422, "The Idempotency-Key belongs to a request with another body."),
    "request_in_progress": _one(409, "The same request is being worked on; send it again in a moment."),
    # --- JSON, and fields in it
    "empty_body": _one(400, "There is no body where a JSON object is wanted."),
    "invalid_json": _one(400, "The body is not JSON; line and column are named."),
    "invalid_utf8": _one(400, "The body is not UTF-8; the byte is named."),
    "too_deep": _one(400, "The body nests more than 32 levels."),
    "duplicate_key": _one(400, "An object, or a form, has a key twice."),
    "not_finite": _one(400, "NaN, Infinity, or a number that becomes one."),
    "invalid_unicode": _one(400, "Half of a surrogate pair."),
    "control_character": _one(400, "A control character where only text belongs."),
    "missing_field": _one(400, "A field that is needed."),
    "unknown_field": _one(400, "A field nobody reads; the nearest known one is suggested."),
    "wrong_type": _one(400, "Another JSON type; nothing is converted."),
    "out_of_range": _one(400, "A number or a length outside its bounds, which are named."),
    "unknown_choice": _one(400, "Not one of the choices, which are named."),
    "invalid_value": _one(400, "The right type, but not a value of this field."),
    "unsupported_value": _one(400, "A value OpenAI takes and this server does not."),
    "conflicting_fields": _one(400, "Two fields that contradict each other; both are named."),
    "cross_field": _one(400, "Fields that are fine alone and not together; all are named."),
    "invalid_parameter": _one(400, "A query parameter of the wrong type or outside its bounds."),
    "invalid_cursor": _one(400, "`after` names nothing in this list."),
    # --- files
    "file_not_found": Refused((404, 400), "No such file of yours: 404 in the path, 400 in a body."),
    "upload_not_found": _one(404, "No such upload in parts of yours."),
    "part_not_found": _one(400, "A part id that is none of this upload's parts."),
    "bytes_mismatch": _one(400, "The parts have other bytes than were announced; both numbers are named."),
    "checksum_mismatch": _one(400, "The parts have another MD5 than the one given; both are named."),
    "file_not_ready": _one(409, "The file is still being read; Retry-After."),
    "file_in_use": _one(409, "A job that has not ended reads the file."),
    "not_deletable": Refused((400, 403), "A result of a job, or a base language model of the server."),
    "invalid_training_file": _one(400, "The training file failed validation: `line` and message are of the first finding."),
    "invalid_validation_file": _one(400, "The same for the validation file."),
    "invalid_unlabeled_file": _one(400, "The same for the unlabeled file."),
    "invalid_test_file": _one(400, "The same for the test file."),
    "reader_unavailable": _one(503, "The process that reads files could not be started; Retry-After."),
    # --- orders
    "model_not_allowed": _one(400, "The model is none of those the operator offers."),
    "model_not_found": Refused((404, 400), "No such model of yours: 404 in the path, 400 in a body."),
    "unknown_engine": _one(400, "The engine is none of those the operator has named."),
    "same_dataset": _one(400, "One file in two roles."),
    "too_few_labeled": _one(400, "Fewer labeled rows than a job needs."),
    "single_class": _one(400, "All labeled rows have the same label."),
    "task_mismatch": _one(400, "The labels of the spec are not those of the training file."),
    "test_leakage": _one(400, "Rows of the test file are in the training file."),
    "validation_leakage": _one(400, "Rows of the validation file are in the training file."),
    "will_not_fit": _one(400, "The job needs more memory than the device has; a spec that fits is given."),
    "adapter_mismatch": _one(400, "The earlier job's adapter has another shape than the order."),
    # --- jobs, keys and what they hold
    "job_not_found": Refused((404, 400), "No such job of yours: 404 in the path, 400 in a body."),
    "invalid_state": _one(409, "The job, or the upload, is in another state than this needs, which is named."),
    "sample_not_found": _one(404, "The job has no such sample."),
    "artifact_not_found": _one(404, "The job has no such artefact."),
    "key_not_found": _one(404, "No such API key of yours."),
    # --- the server
    "internal_error": _one(500, "A bug; it was logged under the request id."),
    "database_unavailable": _one(503, "The database does not answer; Retry-After."),
    "storage_full": _one(507, "No room on the disk; nothing of the request was kept."),
}

FINDINGS: Mapping[str, str] = {
    "dataset_empty": "No rows.",
    "format_mismatch": "The bytes are not of the declared or any known format.",
    "use_jsonl": "One JSON array, where one object per line is wanted.",
    "invalid_utf8": "Not UTF-8.",
    "invalid_json": "A line, or a cell that must be JSON, is not.",
    "invalid_parquet": "Not a Parquet file that can be read.",
    "too_large": "More decoded bytes or rows than are read of one file.",
    "too_many_rows": "More than SEMIFT_MAX_ROWS rows; `line` is the first one over.",
    "too_large_to_read": "Reading took more memory than its limit.",
    "too_slow_to_read": "Reading took more computing time than its limit.",
    "reader_failed": "The file made its reader fail.",
    "too_many_columns": "More columns than are read.",
    "unsupported_column": "A column of a type that holds no text.",
    "missing_column": "The column that is wanted is not there; those that are, are named.",
    "duplicate_column": "Two columns of one name.",
    "wrong_delimiter": "Another delimiter than the format's.",
    "wrong_column_count": "A row with more or fewer cells than the header.",
    "unclosed_quote": "A quote that never ends; `line` is where it opened.",
    "bad_quote": "A quote inside a cell that is not quoted.",
    "cell_too_long": "A cell over its limit.",
    "line_too_long": "A line over its limit.",
    "blank_line": "A line without a row.",
    "not_object": "A line that is JSON, but no object.",
    "duplicate_key": "A key twice in one object.",
    "not_finite": "NaN or Infinity.",
    "out_of_range": "A number JSON can write and no field can hold.",
    "too_deep": "Nests too deep.",
    "invalid_unicode": "Half of a surrogate pair.",
    "control_character": "A control character.",
    "wrong_type": "Another type than text.",
    "missing_key": "A row without a key that the others have.",
    "empty_text": "A text of spaces only.",
    "missing_id": "A row without the id that others have.",
    "duplicate_id": "An id twice.",
    "id_too_long": "An id over its limit.",
    "bad_label": "A target outside the declared labels.",
    "bad_options": "Options that are not a list of distinct texts.",
    "invalid_messages": "`messages` is not a list of messages.",
    "invalid_role": "A role nobody has.",
    "role_order": "Messages in an order no conversation has.",
    "unsupported_content": "A part of a message that is not text.",
    "duplicate_rows": "Rows that are there more than once (a warning).",
    "conflicting_labels": "One text with two labels (a warning).",
    "label_variants": "Labels that differ in case or spaces only (a warning).",
    "mixed_labels": "Labels beside free answers (a warning).",
    "labels_ignored": "Labels in unlabeled rows, which nothing but the report reads (a warning).",
    "rare_class": "A label with a single row (a warning).",
    "single_class": "All rows have the same label.",
    "cross_field": "More demonstrations than labeled rows.",
    "test_leakage": "Rows both labeled and in the test file.",
    "validation_leakage": "Rows both labeled and in the validation file.",
    "unlabeled_in_test": "Rows both unlabeled and in the test file (a warning).",
    "unlabeled_in_validation": "Rows both unlabeled and in the validation file (a warning).",
    "validation_in_test": "Rows in both held-out files (a warning).",
    "labeled_in_unlabeled": "Rows both labeled and unlabeled (a warning).",
}

JOB_ERRORS: Mapping[str, str] = {
    "worker_lost": "The worker went silent again and again, without progress in between.",
    "out_of_memory": "The job did not fit, not even with smaller steps.",
    "diverged_nan": "The training loss was not finite; the stage and the step are named.",
    "no_samples_selected": "No unlabeled row was good enough to train on.",
    "low_parse_rate": "Too few answers of the language model could be read.",
    "engine_refused": "An engine answered and will not do what is asked.",
    "engine_misconfigured": "An engine of this worker lacks its key.",
    "engine_no_logprobs": "An engine gives no log-probabilities, and the job needs them.",
    "engine_unavailable": "An engine stayed away, or gave half answers, through every attempt.",
    "unknown_engine": "The worker has no engine of that name.",
    "model_not_allowed": "The worker has no language model of that name.",
    "model_not_found": "A fine-tuned model was deleted before the job began.",
    "model_unsafe": "A language model's folder needs code, holds pickled weights, or is not the revision the operator listed.",
    "adapter_mismatch": "The earlier job's adapter has another shape than this job.",
    "invalid_data": "Rows that cannot be used.",
    "invalid_file": "A file that cannot be used; the first finding is named.",
    "invalid_value": "A spec that cannot be run.",
    "too_few_labeled": "Fewer labeled rows than a job needs.",
    "text_too_long": "Labeled responses with more tokens than the model reads; their lines are named.",
    "artifact_corrupt": "What was stored is not what was written, and could not be made again.",
    "other_run": "The folder holds another run's results.",
    "stopped": "The run was asked to stop.",
    "internal_error": "A bug; the worker's log has it under the job's id.",
}

# Of warnings in `data.code` of a job's events, beside those of findings between its files.
EVENTS: Mapping[str, str] = {
    "truncated_tokens": "Rows longer than the model reads or max_length allows, which lose their front; lines are named.",
    "chunk_lost": "A worker was late with a chunk that another one had taken.",
    "artifact_corrupt": "What was stored is not what was written, and is made again; or the checkpoint before is used.",
    "rolled_back": "A loss that was not finite: back to the last checkpoint, and that batch is left out.",
    "diverged": "A training whose loss rose far above what it had come down to: begun anew at half the learning rate.",
    "batch_halved": "Rows that did not fit into memory: fewer at once from there on.",
    "not_bit_reproducible": "A training goes on on another device, torch or thread count, or without exact kernels.",
}


def type_of(status: int) -> str:
    """The envelope's `type`: one for each status."""
    server_error = 500
    known: dict[int, Refusal] = {row.status: row for row in STATUS.values()}
    return known[status].type if status in known else known[server_error if status >= server_error else 400].type


INTRODUCTION = """# Error codes

Made by `python -m api.codes > docs/errors.md` from the tables the tests hold the server to. The lists are closed: a code that
is not here is a bug.

Every answer from 400 up is `{"error": {"message", "type", "param", "code", "line", "hint", "request_id"}}`, and `errors` with
all findings where there are several. `param` is the dotted path of the field, or the parameter; `line` the line of the body or
of the file; `hint` what to do. OpenAI's clients try 408, 409, 429 and 5xx again: `x-should-retry` tells them whether to, and
`Retry-After` when.

## Refusals
"""

ABOUT_FINDINGS = """
## Findings in a file

In `/v1/files/{id}/validation`, with line, column and fix; an order on a file with errors is refused as `invalid_…_file`.
`/v1/files/{id}/preview` answers 400 with these codes where a file cannot be read at all.

"""
ABOUT_JOBS = """
## What ends a job

In `error.code` of a job whose status is `failed`.

"""
ABOUT_EVENTS = """
## What a job's events warn of

In `data.code` of events whose level is `warn`, beside the findings between the files of a job.

"""


def as_markdown() -> str:
    """The whole of docs/errors.md."""
    rows = [
        f"| `{code}` | {', '.join(map(str, row.statuses))} | {', '.join(map(type_of, row.statuses))} | {row.means} |"
        for code, row in REFUSALS.items()
    ]
    refusals = "\n".join(["| code | status | type | what it means |", "|---|---|---|---|", *rows])
    told = ((ABOUT_FINDINGS, FINDINGS), (ABOUT_JOBS, JOB_ERRORS), (ABOUT_EVENTS, EVENTS))
    return INTRODUCTION + f"\n{refusals}\n" + "".join(f"{about}{_table(codes)}\n" for about, codes in told)


def _table(codes: Mapping[str, str]) -> str:
    return "\n".join(["| code | what it means |", "|---|---|", *(f"| `{code}` | {means} |" for code, means in codes.items())])


if __name__ == "__main__":
    sys.stdout.write(as_markdown())

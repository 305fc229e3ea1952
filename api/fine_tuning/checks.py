"""What must hold between an order and the files it names, before anything is queued.

Every size: the model is offered, files exist, were read without errors and are not each other; labels are where labels are
needed. Files small enough to have been validated inline are also compared row by row; larger ones the runner compares.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import RowMapping

from api.errors import BadRequest, Conflict
from api.files.reading import readers_wanted
from api.fine_tuning.order import SEMI, Order
from api.problems import did_you_mean, of_spec
from models.settings import settings
from models.status import FileStatus
from worker import parsing
from worker.semisup.answers import Answers
from worker.semisup.automatic import settle
from worker.semisup.errors import SpecError
from worker.semisup.ingest.findings import Finding
from worker.semisup.spec import AutoAnswer, LabelAnswer

SHOWN_MODELS = 20
MIN_LABELED = 2  # as worker/semisup/inputs.py, which this floor may not import


class Warned(NamedTuple):
    """Accepted, but worth an event."""

    message: str
    data: dict[str, object]


def check_model(order: Order) -> None:
    offered = settings().base_lms
    if order.model not in offered:
        shown = ", ".join(sorted(offered)[:SHOWN_MODELS])
        raise BadRequest(
            f"The model {order.model[:100]!r} is not offered here. Offered: {shown}.",
            code="model_not_allowed",
            param="model",
            hint=did_you_mean(order.model, offered) or f"Use one of {shown}.",
        )


def check_distinct(order: Order) -> None:
    """Labeled, unlabeled and held-out rows come from different files, or the report would be about memory."""
    seen: dict[str, str] = {}
    for param, file_id in order.file_ids().items():
        first = seen.setdefault(file_id, param)
        held_out_twice = {first, param} == {"validation_file", order.params["test_file"]}
        if first != param and not held_out_twice:
            raise BadRequest(
                f"'{first}' and '{param}' name the same file {file_id!r:.100}.",
                code="same_dataset",
                param=param,
                hint="Upload the rows as two files.",
            )


def check_open(order: Order) -> None:
    """Open answers cannot have what needs a closed set. What "auto" answers are, the runner finds out and says."""
    answer = order.spec.answer
    if not isinstance(answer, AutoAnswer):
        try:
            settle(order.spec, Answers(answer.kind))
        except SpecError as problem:
            raise of_spec(problem, SEMI) from None


def missing_file(param: str, file_id: str, owner: str | None = None) -> BadRequest:
    """`owner` is the earlier job that the order has the file from."""
    if owner is not None:
        message = f"The {param} of {owner}, {file_id}, was deleted."
        hint = "Upload it again and go on with from_job: a fork needs its job's own files."
        return BadRequest(message, code="file_not_found", param=param, hint=hint)
    shown = file_id[:64].encode("ascii", "backslashreplace").decode()
    return BadRequest(f"'{param}': no file '{shown}'.", code="file_not_found", param=param, hint="Upload it: POST /v1/files.")


def check_files(order: Order, rows: Mapping[str, RowMapping]) -> list[Warned]:
    """`rows` are the files of the order by request field. Raises BadRequest, or Conflict while a file is still being read."""
    for param, row in rows.items():
        _check_read(param, row)
    warned = []
    for param, row in rows.items():
        found, code = row["validation"], _invalid(param)
        if param == order.params["unlabeled_file"]:
            if found["labeled"]:
                message = f"{found['labeled']} rows of the unlabeled file have labels; only the report reads them."
                warned.append(Warned(message, {"code": "labels_ignored", "count": found["labeled"], "param": param}))
        elif not found["labeled"]:
            message = f"'{param}' has 0 labeled rows of {found['rows']}."
            raise BadRequest(
                message, code=code, param=param, hint="Give every row a target, or map its column: dataset[mapping][target]."
            )
        elif param == "training_file" and found["labeled"] < MIN_LABELED:
            message = f"'{param}' has {found['labeled']} labeled row; at least {MIN_LABELED} are needed."
            raise BadRequest(message, code="too_few_labeled", param=param, hint="Add labeled rows.")
        elif found["unlabeled"]:
            message = f"{found['unlabeled']} of {found['rows']} rows of '{param}' have no target."
            raise BadRequest(message, code=code, param=param, hint="Put rows without a target into the unlabeled file.")
    _check_answers(order, rows["training_file"])
    if order.unlabeled_file is not None:
        _check_demonstrations(order, rows["training_file"]["validation"]["labeled"])
    if all(row["bytes"] <= settings().inline_validation_bytes for row in rows.values()):
        warned += _compare(order, rows)
    return warned


def _invalid(param: str) -> str:
    return f"invalid_{param.rpartition('.')[2]}"


def _check_read(param: str, row: RowMapping) -> None:
    if row["status"] == FileStatus.uploaded:
        raise Conflict(
            f"'{param}': the file {row['id']} is still being read.",
            code="file_not_ready",
            param=param,
            hint="Wait until its status is processed.",
            headers={"retry-after": "1"},
        )
    if row["status"] == FileStatus.error:
        errors = (row["validation"] or {}).get("errors") or [{}]
        raise BadRequest(
            f"'{param}': the file {row['id']} failed validation: {row['status_details']}",
            code=_invalid(param),
            param=param,
            line=errors[0].get("line"),
            hint=errors[0].get("fix") or f"See /v1/files/{row['id']}/validation.",
        )


def _check_demonstrations(order: Order, labeled: int) -> None:
    propagation = order.spec.propagation
    wanted = propagation.neighbours
    if propagation.in_context and wanted > labeled:
        raise BadRequest(
            f"{wanted} demonstrations are wanted ('{order.params['k']}'), but the training file has {labeled} labeled rows.",
            code="cross_field",
            param=order.params["k"],
            hint=f"Set it to at most {labeled}, or add labeled rows.",
        )


def _check_answers(order: Order, training: RowMapping) -> None:
    """A declared label set must hold what the training file says; its report counts up to 100 distinct answers."""
    answer, counted = order.spec.answer, training["validation"]["stats"]["label_distribution"]
    if not isinstance(answer, LabelAnswer) or answer.labels is None or not counted:
        return
    strange = [label for label in counted if label not in answer.labels]
    if strange:
        raise BadRequest(
            f"The training file has labels outside answer.labels: {', '.join(strange[:5])!r:.150}.",
            code="task_mismatch",
            param="method.semi_supervised.answer.labels",
            hint=did_you_mean(strange[0], answer.labels) or "Add them to answer.labels, or correct the file.",
        )


def _compare(order: Order, rows: Mapping[str, RowMapping]) -> list[Warned]:
    """Row against row: what two files share, classes with one member. Errors raise, warnings are returned."""
    roles = {"labeled": "training_file", "unlabeled": order.params["unlabeled_file"], "test": order.params["test_file"]}
    roles["validation"] = "validation_file"
    named = {role: rows[param] for role, param in roles.items() if param in rows}
    sources = {role: parsing.Source(row["sha256"], row["filename"], row["options"]) for role, row in named.items()}
    allow = () if order.spec.evaluation.on_leakage == "error" else ("test_leakage", "validation_leakage")
    with readers_wanted():
        findings = parsing.compare(sources, allow)
    at_fault = {"test_leakage": roles["test"], "validation_leakage": "validation_file"}
    for finding in findings:
        if finding.severity == "error":
            param = at_fault.get(finding.code, "training_file")
            raise BadRequest(finding.message, code=finding.code, param=param, hint=finding.fix)
    return as_warned(findings)


def as_warned(findings: Iterable[Finding]) -> list[Warned]:
    return [Warned(finding.message, finding.model_dump(mode="json", exclude_none=True)) for finding in findings]

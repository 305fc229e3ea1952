"""The lists of codes are closed: the code, the documents, the tests and every answer of the suite know the same ones."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.codes import EVENTS, FINDINGS, JOB_ERRORS, REFUSALS, as_markdown, type_of
from api.errors import STATUS, refusal
from tests.api.watching import Answer, problems

ROOT = Path(__file__).parents[2]
ALL = {*REFUSALS, *FINDINGS, *JOB_ERRORS, *EVENTS}
CODE = re.compile(r"[a-z]+(_[a-z0-9]+)+")
# What finds fault with a file says so in its first argument.
FINDERS = {"Refusal", "Finding", "_finding", "refuse", "_refuse", "_Bad", "_row"}


def literals(*folders: str) -> Iterator[tuple[str, str]]:
    """Every text given as `code=…`, as "code": …, as a class's `code`, or as a finding's first argument; and where."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                found: list[ast.expr] = []
                if isinstance(node, ast.keyword) and node.arg == "code":
                    found = [node.value]
                elif isinstance(node, ast.Dict):
                    found = [
                        v
                        for k, v in zip(node.keys, node.values, strict=True)
                        if isinstance(k, ast.Constant) and k.value == "code"
                    ]
                elif isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "code" for t in node.targets):
                    found = [node.value]
                elif isinstance(node, ast.Call) and node.args and _name(node.func) in FINDERS:
                    found = [node.args[0]]
                for value in found:
                    if isinstance(value, ast.Constant) and isinstance(value.value, str) and CODE.fullmatch(value.value):
                        yield value.value, f"{path.relative_to(ROOT)}:{value.lineno}"


def _name(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def test_no_code_is_written_that_is_in_no_list() -> None:
    assert sorted(place for code, place in literals("api", "worker", "models") if code not in ALL) == []
    assert sorted(place for code, place in literals("api") if code not in {*REFUSALS, *FINDINGS, *EVENTS}) == []


def test_no_code_is_in_a_list_that_is_written_nowhere() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("api", "worker", "models")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "codes.py"
    )
    written = set(re.findall(r"[\"']([a-z]+(?:_[a-z0-9]+)*)[\"']", source))
    built = {"invalid_training_file", "invalid_validation_file", "invalid_unlabeled_file", "invalid_test_file"}
    assert sorted(ALL - written - built) == []


def test_every_code_is_in_a_test() -> None:
    """As a text of its own, which something is compared with: a word in a comment or in a name is no test."""
    written: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name not in ("test_codes.py", "watching.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            written |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert sorted(ALL - written) == []


def test_the_document_is_the_lists() -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == as_markdown(), "python -m api.codes > docs/errors.md"


def test_every_status_has_one_type() -> None:
    by_status: dict[int, set[str]] = {}
    for row in STATUS.values():
        by_status.setdefault(row.status, set()).add(row.type)
    assert {status for status, types in by_status.items() if len(types) > 1} == set()
    assert (type_of(431), type_of(507), type_of(409)) == ("invalid_request_error", "server_error", "conflict_error")
    assert refusal(RuntimeError()).status == 500


GOOD = {
    "message": "m",
    "type": "invalid_request_error",
    "param": None,
    "code": "too_deep",
    "line": 1,
    "hint": "h",
    "request_id": "r",
}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer("/v1/x", 400, {"error": GOOD}), None),
        (Answer("/v1/x", 200, {"whatever": 1}), None),
        (Answer("/v1/x", 404, {"error": GOOD}), "too_deep is no code of 404"),
        (Answer("/v1/x", 400, {"error": {**GOOD, "code": "nonsense"}}), "nonsense is no code"),
        (Answer("/v1/x", 400, {"error": {**GOOD, "hint": None}}), "no hint"),
        (Answer("/v1/x", 400, {"error": {**GOOD, "type": "server_error"}}), "type"),
        (Answer("/v1/x", 400, {"error": {k: v for k, v in GOOD.items() if k != "line"}}), "line"),
        (Answer("/v1/x", 400, {"detail": []}), "envelope"),
        (Answer("/v1/x", 400, None), "envelope"),
    ],
)
def test_what_watches_the_suite_sees_what_is_wrong(answer: Answer, says: str | None) -> None:
    """tests/api/conftest.py holds every answer of every test of this folder to `problems`."""
    found = list(problems(answer))
    assert (found == []) if says is None else (says in found[0])

"""JSON lines, strictly: one object a line, no duplicate keys, no NaN, no lone surrogates, at most 32 deep."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from worker.semisup.ingest.findings import Finding, Refusal
from worker.semisup.ingest.row import Row

MAX_DEPTH = 32
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
TRAILING_COMMA = re.compile(r",\s*[}\]]")


def read_jsonl(lines: Iterable[tuple[int, str]]) -> Iterator[Row | Finding]:
    blank: list[int] = []  # reported only once something follows: blank lines at the end are no rows
    for number, text in lines:
        if not text.strip():
            blank.append(number)
            continue
        for line in blank:
            yield Finding(code="blank_line", message=f"Line {line} is blank.", line=line, fix="Delete the line.")
        blank.clear()
        try:
            yield Row(number, _parse(text))
        except Refusal as refusal:
            yield refusal.finding.model_copy(update={"line": number, "message": f"Line {number}: {refusal.finding.message}"})


def _parse(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Refusal(
            "invalid_json",
            f"not valid JSON at character {error.pos + 1}: {error.msg}.",
            column=error.pos + 1,
            got=text,
            fix=_fix(text),
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise Refusal("out_of_range", "a number has too many digits.", got=text, fix="Write it as a string.") from None
    if not isinstance(value, dict):
        kind = {list: "array", str: "string", type(None): "null", bool: "boolean"}.get(type(value), "number")
        raise Refusal(
            "not_object", f"an object is needed, not a JSON {kind}.", got=text, fix='Write {"column": value, …} on each line.'
        )
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep()
    if SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refusal(
                "invalid_unicode", "half of a surrogate pair.", got=text, fix="Write the character itself, or both halves."
            ) from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Refusal("duplicate_key", f"the key {twice[:80]!r} occurs twice.", path=twice[:80], fix="Keep one of them.")
    return value


def _constant(name: str) -> NoReturn:
    raise Refusal("not_finite", f"{name} is not JSON.", got=name, fix="Write null or a finite number.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Refusal("not_finite", "a number is too large.", got=text, fix="Write null or a finite number.")
    return value


def _too_deep() -> Refusal:
    return Refusal("too_deep", f"nested deeper than {MAX_DEPTH}.", fix="Flatten the row.")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _fix(text: str) -> str:
    if TRAILING_COMMA.search(text):
        return "Remove the comma before the closing bracket."
    if "\u201c" in text or "\u201d" in text:
        return 'Replace typographic quotes by ".'
    if text.strip() == "{":
        return "Write each object on one line."
    return "Write one JSON object per line."

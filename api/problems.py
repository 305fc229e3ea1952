"""Pydantic's errors in our words: a closed list of codes, the full dotted path, bounds or choices, the nearest legal key."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from api.bodies import noun
from api.errors import BadRequest
from worker.semisup.errors import SpecError

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]

MAX_ECHO = 200
MAX_FINDINGS = 50
BOUNDS = {
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "int_parsing_size"),
    *("too_short", "too_long", "string_too_short", "string_too_long"),
}
CHOICES = {"literal_error", "enum", "union_tag_invalid"}
NOUNS = {
    **{"int": "an integer", "float": "a number", "bool": "true or false"},
    **{"string": "a string", "list": "an array", "tuple": "an array"},
}
TAGS = ("kind", "strategy")  # what tells the members of spec.py's unions apart
LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length")


def checked(model: type[Model], given: Mapping[str, Any], prefix: str = "") -> Model:
    """`given` as a `model`, or BadRequest naming every field at fault; `prefix` is where `given` stood in the request."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise refuse(error, model, given, prefix) from None


def refuse(error: ValidationError, model: type[BaseModel], given: Mapping[str, Any], prefix: str) -> BadRequest:
    by_path: dict[Path, list[ErrorDetails]] = defaultdict(list)
    for detail in error.errors(include_url=False):
        by_path[_real_path(detail, given)].append(detail)
    findings = [_finding(model, given, path, details, prefix) for path, details in list(by_path.items())[:MAX_FINDINGS]]
    return as_one(findings)


def as_one(findings: list[dict[str, Any]]) -> BadRequest:
    """The first of `findings` (code, param, message, hint) in front, all of them in `errors` where there are more."""
    first = findings[0]
    more = f" ({len(findings) - 1} more in 'errors')" if len(findings) > 1 else ""
    return BadRequest(
        first["message"] + more,
        code=first["code"],
        param=first["param"],
        hint=first["hint"],
        errors=findings if len(findings) > 1 else None,
    )


def of_spec(problem: SpecError, prefix: str) -> BadRequest:
    """What the algorithm has against a spec, in its own words; `prefix` is where the spec stood in the request."""
    return BadRequest(problem.message, code=problem.code, param=f"{prefix}.{problem.param}", hint=problem.hint)


def _real_path(detail: ErrorDetails, given: object) -> Path:
    """The location without the union branches pydantic adds to it: only steps that exist in what was sent."""
    path: list[str | int] = []
    here = given
    for step in detail["loc"]:
        if (isinstance(here, Mapping) and step in here) or (isinstance(here, list) and isinstance(step, int)):
            here = here[step]  # type: ignore[index]
            path.append(step)
    if detail["type"] == "missing":
        path.append(detail["loc"][-1])
    if detail["type"].startswith("union_tag"):
        path.append(str(detail["ctx"]["discriminator"]).strip("'"))
    return tuple(path)


def _finding(
    model: type[BaseModel], given: Mapping[str, Any], path: Path, details: Sequence[ErrorDetails], prefix: str
) -> dict[str, Any]:
    detail = details[0]
    kinds = {d["type"] for d in details}
    if detail["type"] == "value_error":  # a validator of spec.py; when it names its field, so do we
        message = str(detail["ctx"]["error"])
        word = message.split(" ", 1)[0]
        named = word in _legal_keys(model, given, path)
        bounded = named and " must be " in message
        code, hint = (
            ("out_of_range", "Use a value inside the bounds.") if bounded else ("cross_field", "Make the fields agree.")
        )
        return _row(code, prefix, (*path, word) if named else path, f"{message}.", hint)
    value = _value(given, path)
    param = _dotted(prefix, path)
    if "missing" in kinds or "union_tag_not_found" in kinds:
        choices = [f" One of {d['ctx'].get('expected_tags', '')}." for d in details if "ctx" in d]
        return _row("missing_field", prefix, path, f"'{param}' is required.", f"Add '{path[-1]}'.{''.join(choices)}")
    if "extra_forbidden" in kinds:
        return _unknown_field(model, given, path, prefix)
    mistyped = any(kind.endswith("_type") for kind in kinds)
    if kinds & CHOICES and not mistyped:
        return _unknown_choice(details, value, prefix, path)
    if "finite_number" in kinds:
        return _row("not_finite", prefix, path, f"'{param}' must be a finite number.", "Give a number, not NaN or Infinity.")
    if kinds & BOUNDS:
        bounds = _bounds(_field(model, given, path)) or detail["msg"]
        return _row("out_of_range", prefix, path, f"'{param}' must be {bounds}; got {_echo(value)}.", f"Use a value {bounds}.")
    if mistyped:
        wanted = " or ".join(dict.fromkeys(_wanted(d) for d in details))
        return _row("wrong_type", prefix, path, f"'{param}' must be {wanted}; got {noun(value)}.", f"Expected {wanted}.")
    return _row("invalid_value", prefix, path, f"'{param}': {detail['msg']}; got {_echo(value)}.", f"{detail['msg']}.")


def _unknown_field(model: type[BaseModel], given: Mapping[str, Any], path: Path, prefix: str) -> dict[str, Any]:
    legal = _legal_keys(model, given, path[:-1])
    hint = did_you_mean(str(path[-1]), legal) or f"Known here: {', '.join(sorted(legal))}."
    return _row("unknown_field", prefix, path, f"Unknown field '{_dotted(prefix, path)}'.", hint)


def _unknown_choice(details: Sequence[ErrorDetails], value: object, prefix: str, path: Path) -> dict[str, Any]:
    context = details[0]["ctx"]
    choices = re.findall(r"'([^']*)'", str(context.get("expected_tags") or context.get("expected")))
    shown = context.get("tag", value)
    message = f"'{_dotted(prefix, path)}' must be one of {', '.join(choices)}; got {_echo(shown)}."
    return _row("unknown_choice", prefix, path, message, did_you_mean(str(shown), choices) or f"Choices: {', '.join(choices)}.")


def did_you_mean(given: str, legal: Iterable[str]) -> str | None:
    close = get_close_matches(given[:MAX_ECHO], list(legal), n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else None


def _row(code: str, prefix: str, path: Path, message: str, hint: str) -> dict[str, Any]:
    return {"code": code, "param": _dotted(prefix, path), "message": message, "hint": hint}


def _dotted(prefix: str, path: Path) -> str:
    return ".".join(part for part in (prefix, *(str(step) for step in path)) if part)


def _echo(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= MAX_ECHO else shown[:MAX_ECHO] + "…"


def _wanted(detail: ErrorDetails) -> str:
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"])
    return NOUNS.get(detail["type"].removesuffix("_type"), "an object")


def _value(given: object, path: Path) -> object:
    for step in path:
        try:
            given = given[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return None
    return given


# --- walking the model along a path, to know the legal keys and the bounds there ---------------------------------------


def _members(annotation: object) -> list[Any]:
    """The plain types behind Annotated, unions and optionals."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        return [member for arg in get_args(annotation) for member in _members(arg)]
    return [annotation]


def _models(annotation: object, given: object) -> list[type[BaseModel]]:
    """The models `given` may mean; of a discriminated union the one its tag names, when it names one."""
    found = [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    said = {str(given.get(tag)) for tag in TAGS if tag in given} if isinstance(given, Mapping) else set()
    return [m for m in found if _tag(m) & said] or (found if said else found[:1])  # untagged: the usual one, spec.py's first


def _tag(model: type[BaseModel]) -> set[str]:
    tags = [f.annotation for name, f in model.model_fields.items() if name in TAGS]
    return {str(value) for annotation in tags if get_origin(annotation) is Literal for value in get_args(annotation)}


def _field(model: type[BaseModel], given: object, path: Path) -> FieldInfo | None:
    models, found = [model], None
    for step in path:
        if isinstance(step, int):
            given = _value(given, (step,))
            item = next((a for m in _members(found.annotation if found else None) for a in get_args(m)), None)
            models = _models(item, given)
            continue
        found = next((m.model_fields[step] for m in models if step in m.model_fields), None)
        given = _value(given, (step,))
        models = _models(found.annotation, given) if found else []
    return found


def _legal_keys(model: type[BaseModel], given: Mapping[str, Any], path: Path) -> set[str]:
    if not path:
        return set(model.model_fields)
    field = _field(model, given, path)
    here = _value(given, path)
    annotation = field.annotation if field else None
    if isinstance(path[-1], int):
        annotation = next((a for m in _members(annotation) for a in get_args(m)), None)
    return {key for m in _models(annotation, here) for key in m.model_fields}


def _bounds(field: FieldInfo | None) -> str | None:
    limits: dict[str, Any] = {}
    for rule in field.metadata if field else ():
        limits |= {name: getattr(rule, name) for name in LIMITS if getattr(rule, name, None) is not None}
    if {"min_length", "max_length"} & limits.keys():
        return f"{limits.get('min_length', 0)} to {limits.get('max_length', 'any number of')} long"
    if {"ge", "le"} <= limits.keys():
        return f"between {limits['ge']} and {limits['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(f"{word} {limits[name]}" for name, word in words.items() if name in limits) or None

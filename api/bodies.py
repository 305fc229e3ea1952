"""The only reader of JSON bodies: bounded, strict, and it says where a body is wrong.

What json.loads lets through and a database or a later reader chokes on is refused here: duplicate keys, NaN and 1e999,
integers outside int64, lone surrogates, control characters, nesting (checked before parsing, on the raw text).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from api.errors import BadRequest, TooLarge, UnsupportedMedia
from models.settings import settings

MAX_DEPTH = 32
INT64 = 2**63
FREE_TEXT = {"system_prompt"}  # the only values in which tab and line ends are text
ACCEPTED = "application/json"


@dataclass(frozen=True)
class _Bad:
    """Stands where the parser met a value that must not get further; found again with its path by `_findings`."""

    code: str
    message: str
    hint: str


async def json_object(request: Request) -> dict[str, Any]:
    """The request's body as a dict. Raises BadRequest, TooLarge or UnsupportedMedia."""
    _check_headers(request)
    return parse_object(await _read(request, settings().max_body_bytes))


JsonBody = Annotated[dict[str, Any], Depends(json_object)]


def check_media(request: Request, accepted: str) -> list[str]:
    """The parameters of the content type. Raises UnsupportedMedia for a compressed body, or one of another type."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedMedia(
            f"Content-Encoding {encoding[:50]!r} is not read here.",
            code="unsupported_encoding",
            hint="Send the body uncompressed.",
        )
    media, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    if media != accepted:
        raise UnsupportedMedia(
            f"Content-Type {media[:80]!r} is not read here.", code="unsupported_media_type", hint=f"Accepted: {accepted}."
        )
    return parameters


def _check_headers(request: Request) -> None:
    for parameter in check_media(request, ACCEPTED):
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMedia(f"Charset {value[:40]!r} is not read here.", code="unsupported_charset", hint="Send UTF-8.")


async def _read(request: Request, limit: int) -> bytes:
    too_large = TooLarge(
        f"The body is larger than {limit} bytes ({limit // 1024} KiB).", code="body_too_large", hint="Upload data as a file."
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def parse_object(raw: bytes) -> dict[str, Any]:
    """`raw` as a JSON object, or the reason it is none, with line, path and fix."""
    text = _decode(raw)
    if not text.strip():
        raise BadRequest("The body is empty.", code="empty_body", hint="Send a JSON object.")
    _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_not_finite, parse_float=_float, parse_int=_int)
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"The body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}.",
            code="invalid_json",
            line=error.lineno,
            hint="Check for a missing quote, comma or bracket at that position.",
        ) from None
    reject_bad_values(value)
    if not isinstance(value, dict):
        raise BadRequest(
            f"The body must be an object, got {noun(value)}.", code="wrong_type", hint='Expected an object: {"model": …}.'
        )
    return value


def reject_bad_values(value: object) -> None:
    """Raises BadRequest at the first text or number, at any depth, that no database and no later reader shall see."""
    for path, bad in _findings(value, ""):
        where = f"'{path}'" if path else "The body"
        raise BadRequest(f"{where} {bad.message}.", code=bad.code, param=path or None, hint=bad.hint)


def _decode(raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in raw[:4]:
        raise UnsupportedMedia("The body looks like UTF-16 or UTF-32.", code="unsupported_charset", hint="Send UTF-8.")
    try:
        return raw.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The body is not UTF-8: byte {error.start} cannot be decoded.", code="invalid_utf8", hint="Send the body as UTF-8."
        ) from None


_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match[0]
        depth += (token in "[{") - (token in "]}")
        if depth > MAX_DEPTH:
            line = text.count("\n", 0, match.start()) + 1
            raise BadRequest(
                f"The body nests deeper than {MAX_DEPTH} levels.", code="too_deep", line=line, hint=f"The limit is {MAX_DEPTH}."
            )


def _object(pairs: list[tuple[str, Any]]) -> object:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            return _Bad("duplicate_key", f"has the key {key[:100]!r} twice", f"Keep one {key[:100]!r}.")
        out[key] = value
    return out


def _not_finite(literal: str) -> _Bad:
    return _Bad("not_finite", f"must be a finite number, got {literal[:40]}", "JSON has no NaN or Infinity; give a number.")


def _float(literal: str) -> object:
    value = float(literal)
    return _not_finite(literal) if value in (float("inf"), float("-inf")) else value


def _int(literal: str) -> object:
    value = int(literal) if len(literal) <= 20 else INT64  # int() of 5000 digits is slow, and raises
    if -INT64 <= value < INT64:
        return value
    return _Bad("out_of_range", "must fit into 64 bits", f"Integers go from {-INT64} to {INT64 - 1}.")


def _findings(value: object, path: str) -> Iterator[tuple[str, _Bad]]:
    if isinstance(value, _Bad):
        yield path, value
    elif isinstance(value, str):
        bad = _bad_text(value, multiline=path.rpartition(".")[2] in FREE_TEXT)
        if bad:
            yield path, bad
    elif isinstance(value, Mapping):
        for key, below in value.items():
            shown = key[:100].encode("utf-8", "backslashreplace").decode()
            bad = _bad_text(key, multiline=False)
            if bad:
                yield (f"{path}.{shown!r}" if path else repr(shown)), bad
            yield from _findings(below, f"{path}.{shown}" if path else shown)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _findings(below, f"{path}.{index}")


def _bad_text(text: str, *, multiline: bool) -> _Bad | None:
    for char in text:
        if "\ud800" <= char <= "\udfff":
            return _Bad(
                "invalid_unicode", f"holds a lone surrogate U+{ord(char):04X}", "Send whole characters, or \\uXXXX pairs."
            )
        if char < " " and not (multiline and char in "\t\n\r"):
            return _Bad("control_character", f"holds the control character U+{ord(char):04X}", "Remove it.")
    return None


def noun(value: object) -> str:
    """What JSON calls this value, with its article."""
    names = {
        dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number",
        type(None): "null",
    }  # fmt: skip
    return names.get(type(value), "something else")

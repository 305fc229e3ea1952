"""Text as rows are compared by, and what a text may not hold."""

import re
import unicodedata
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from worker.semisup.data import Query
from worker.semisup.ingest.findings import Refusal

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # PostgreSQL refuses NUL; the others are never meant
KEY_BYTES = 16


def normalised(text: str) -> str:
    """NFKC, case folded, white space collapsed: two texts that differ in nothing a reader sees are equal."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def row_key(query: Query) -> bytes:
    """Hash of what the row asks (turns without the system's, options in any order), after `normalised`."""
    parts = [f"{m.role}:{normalised(m.content)}" for m in query.messages if m.role != "system"]
    return blake2b("\x1f".join([*parts, *sorted(map(normalised, query.options))]).encode(), digest_size=KEY_BYTES).digest()


def as_text(value: Any, path: str) -> str:
    """A cell as text, stripped; None is empty. Raises Refusal `wrong_type`, `control_character` or `invalid_unicode`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)  # pandas turns a column of ints with a gap into floats
    if isinstance(value, (int, Decimal)):
        return str(value)
    if not isinstance(value, str):
        raise Refusal("wrong_type", f"{path} holds {_kind(value)}, not text.", path=path, got=value, fix="Write it as text.")
    if found := CONTROL.search(value):
        raise Refusal(
            "control_character",
            f"{path} holds the control character U+{ord(found[0]):04X}.",
            path=path,
            got=repr(value),
            fix="Delete the character.",
        )
    return value.strip()


def _kind(value: Any) -> str:
    kinds = {"list": "a list", "dict": "an object", "bytes": "bytes"}
    return kinds.get(type(value).__name__, f"a {type(value).__name__}")

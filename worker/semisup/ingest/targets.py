"""Options and targets. A choice is answered by its letter; the option's text or its number from 1 is turned into the letter."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from worker.semisup.answers import LETTERS
from worker.semisup.ingest.findings import Refusal, did_you_mean
from worker.semisup.ingest.text import as_text, normalised

SHOWN_LABELS = 20


def parse_options(value: Any, path: str) -> tuple[str, ...]:
    """A list, a JSON list in a cell, or {"A": …, "B": …}. Raises Refusal `bad_options`."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _bad(path, value, "is not a JSON list") from None
    if isinstance(value, dict) and list(value) == list(LETTERS[: len(value)]):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        raise _bad(path, value, "is not a list")
    texts = tuple(as_text(item, f"{path}[{i}]") for i, item in enumerate(value))
    if not 2 <= len(texts) <= len(LETTERS):
        raise _bad(path, value, f"holds {len(texts)} options; 2 to {len(LETTERS)} are possible")
    if not all(texts):
        raise _bad(path, value, "holds an empty option")
    if len(set(texts)) < len(texts):
        raise _bad(path, value, "holds an option twice")
    return texts


def _bad(path: str, value: Any, what: str) -> Refusal:
    return Refusal(
        "bad_options", f"{path} {what}.", path=path, got=value, fix='Write a JSON list of distinct texts: ["yes", "no"].'
    )


def canonical(target: str, options: Sequence[str], labels: Sequence[str] | None, path: str) -> str:
    """The answer as it is compared: an option's letter, a declared label, else the target itself.

    Raises Refusal `bad_label`; where case and space alone are to blame, `fix` is the right form.
    """
    letters = LETTERS[: len(options)]
    if options:
        if target in letters and len(target) == 1:
            return target
        if target in options:
            return letters[list(options).index(target)]
        if target.isascii() and target.isdigit() and 1 <= int(target[:3]) <= len(options):
            return letters[int(target) - 1]  # ARC numbers some of its options from 1; counting from 0 fails at the first 0
        _refuse(target, [*letters, *options], path)
    if labels is None or target in labels:
        return target
    _refuse(target, labels, path)


def _refuse(target: str, allowed: Sequence[str], path: str) -> NoReturn:
    same = next((label for label in allowed if normalised(label) == normalised(target)), None)
    shown = ", ".join(repr(label[:40]) for label in allowed[:SHOWN_LABELS]) + (" …" if len(allowed) > SHOWN_LABELS else "")
    raise Refusal(
        "bad_label",
        f"{path} {target[:80]!r} is none of the allowed answers: {shown}.",
        path=path,
        got=target,
        fix=f"Write {same!r}." if same else did_you_mean(target, allowed) or "Use one of the allowed answers.",
    )


def lenient(value: Any) -> str | None:
    """A target that is only compared with, never trained on: whatever cannot be text is none."""
    try:
        return as_text(value, "target") or None
    except Refusal:
        return None

"""From a response to its answer, strictly: what cannot be read unambiguously is None, a failed vote, never an agreement.

Numbers go through `Decimal`; nothing that a model wrote is ever evaluated.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from worker.semisup.data import Example, Query
from worker.semisup.errors import DataError
from worker.semisup.spec import AnswerSpec, LabelAnswer, NumberAnswer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MARKER = re.compile(r"(?:^|\n|\.\s)\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is\s*:?|:)\s*", re.IGNORECASE)
LETTER = re.compile(r"^\(?([A-Za-z])\)?(?:[.):]?$|[.):]\s)")
NUMBER = re.compile(r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)", re.ASCII)
NUMBER_LENGTH = 64  # characters; longer digit strings are noise
LABEL_LIMIT = 200  # distinct responses above which a set is not called closed
LABEL_LENGTH = 80  # characters; longer responses are texts


@dataclass(frozen=True, slots=True)
class Answers:
    """A job's resolved answer kind. `labels` in order of first appearance; `tolerance` for numbers."""

    kind: Literal["choice", "label", "number", "text"]
    labels: tuple[str, ...] = ()
    tolerance: float = 0.0

    def parse(self, response: str, query: Query) -> str | None:
        """The canonical answer in `response`, or None."""
        text = _after_marker(response)
        if self.kind == "choice":
            return _choice(text, query.options)
        if self.kind == "label":
            return _label(text, self.labels)
        if self.kind == "number":
            return _number(response)
        return normalise(text) or None

    def canonical(self, response: str, answer: str) -> str:
        """The response to train on: the answer's own form where the response is nothing but that answer."""
        closed = self.kind in ("choice", "label") and _spaceless(response) == _spaceless(answer)
        return answer if closed else response

    def same(self, left: str | None, right: str | None) -> bool:
        """Whether two parsed answers count as one. A failed vote agrees with nothing, itself included."""
        if left is None or right is None:
            return False
        if self.kind == "number" and self.tolerance > 0:
            return abs(Decimal(left) - Decimal(right)) <= Decimal(str(self.tolerance))
        return left == right

    def group(self, answers: Sequence[str | None]) -> list[tuple[str, list[int]]]:
        """Parsed answers that agree, as (the first one's form, indices), largest group first, ties by first appearance."""
        groups: list[tuple[str, list[int]]] = []
        for index, answer in enumerate(answers):
            found = next((members for form, members in groups if self.same(form, answer)), None)
            if found is not None:
                found.append(index)
            elif answer is not None:
                groups.append((answer, [index]))
        return sorted(groups, key=lambda group: -len(group[1]))


def resolve_answers(spec: AnswerSpec, labeled: Sequence[Example]) -> Answers:
    """The answer kind of a job: as the spec says, or found from the labeled rows when it says auto."""
    if spec.kind != "auto":
        labels = tuple(spec.labels or _distinct(labeled)) if isinstance(spec, LabelAnswer) else ()
        return Answers(spec.kind, labels, spec.tolerance if isinstance(spec, NumberAnswer) else 0.0)
    if all(example.query.options for example in labeled):
        return Answers("choice")
    distinct = _distinct(labeled)
    if len(distinct) <= min(LABEL_LIMIT, len(labeled) // 2) and max(map(len, distinct)) <= LABEL_LENGTH:
        return Answers("label", distinct)
    if all("####" in example.response or NUMBER.fullmatch(example.response.strip()) for example in labeled):
        return Answers("number")
    return Answers("text")


def with_answers(labeled: Sequence[Example], answers: Answers, *, file: str) -> tuple[Example, ...]:
    """The examples with their answers in canonical form. Raises DataError for a response that holds none."""
    out = []
    for example in labeled:
        answer = answers.parse(example.response, example.query)
        if answer is None:
            allowed = f"; allowed: {', '.join(answers.labels[:20])}" if answers.labels else ""
            raise DataError(
                f"Row {example.id} of the {file} has no {answers.kind} answer in its response "
                f"{example.response[:80]!r}{allowed}.",
                code="bad_label",
                param=file,
                hint="Correct the row, or name another answer kind in method.semi_supervised.answer.",
            )
        out.append(Example(example.query, example.response, answer, example.weight))
    return tuple(out)


def normalise(text: str) -> str:
    """NFKC, case folded, spaces collapsed, surrounding quotes and a closing full stop dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip("\"'` ").rstrip(".").strip()


def _distinct(labeled: Sequence[Example]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(example.response.strip() for example in labeled))


def _after_marker(response: str) -> str:
    """What follows the last "Answer:", where there is one; else the whole response."""
    found = list(MARKER.finditer(response))
    return (response[found[-1].end() :] if found else response).strip()


def _choice(text: str, options: Sequence[str]) -> str | None:
    found = LETTER.match(text)
    if found:
        letter = found[1].upper()
        return letter if LETTERS.index(letter) < len(options) else None
    exact = [LETTERS[i] for i, option in enumerate(options) if normalise(option) == normalise(text)]
    return exact[0] if len(exact) == 1 else None


def _label(text: str, labels: Sequence[str]) -> str | None:
    """The label that the text is: normalised, or else with all spaces dropped (tokenizers split `card_arrival`)."""
    for form in (normalise, _spaceless):
        matches = [label for label in labels if form(label) == form(text)]
        if len(matches) == 1:
            return matches[0]
    return None


def _spaceless(text: str) -> str:
    return normalise(text).replace(" ", "")


def _number(response: str) -> str | None:
    """The number after the last "Answer:" or "####", else the only number there is. Canonical decimal text."""
    marked = re.split(r"####", response)[-1] if "####" in response else _after_marker(response)
    found = NUMBER.findall(marked)
    if not found or (len(set(found)) > 1 and marked == response.strip()):
        return None
    text = found[0].replace(",", "")
    if len(text) > NUMBER_LENGTH:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return format(value.normalize() + 0, "f")

"""From a response to its answer, strictly, and which answers agree (docs/answers.md).

What cannot be read unambiguously is None, a failed vote, never an agreement.

Numbers go through `Decimal`; nothing that a model wrote is ever evaluated.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal

from worker.semisup.data import Example, Query
from worker.semisup.errors import DataError
from worker.semisup.meaning import Embed, Meaning, cluster, read_meaning
from worker.semisup.spec import AnswerSpec, LabelAnswer, NumberAnswer, TextAnswer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MARKER = re.compile(r"(?:^|\n|[.!?]\s)\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is\s*:?|:)\s*", re.IGNORECASE)
LETTER = re.compile(r"^\(?([A-Za-z])\)?(?:[.):]?$|[.):]\s)")
# No part of a version, fraction, time or date; the sign may stand before a currency.
NUMBER = re.compile(r"(?<![\w.,])(?<!\d[/:])([-+]?)[$€£]?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?![\w]|[.,/:]\d)", re.ASCII)
MINUS = "\u2212"  # the typographic one
SENTENCE = re.compile(r"[.!?]\s|\n")  # where the statement of an answer ends
RESULT = "####"  # what gsm8k puts before the result of its steps
NUMBER_LENGTH = 64  # characters; longer digit strings are noise
DIGITS = Context(prec=NUMBER_LENGTH)  # the usual 28 digits would make two long numbers one
LABEL_LIMIT = 200  # distinct responses above which a set is not called closed
LABEL_LENGTH = 80  # characters; longer responses are texts


@dataclass(frozen=True, slots=True)
class Answers:
    """A job's resolved answer kind: what it is, how it is read, and when two of it are one. See docs/answers.md.

    `labels` in order of first appearance; `tolerance` and `relative_tolerance` for numbers; `min_similarity` for texts,
    where None means that they agree by match alone. `marked`: every labeled response states its answer after "Answer:" (or
    "####", for numbers), so an open answer without one (a response cut off amid its reasoning) is unreadable.
    """

    kind: Literal["choice", "label", "number", "text"]
    labels: tuple[str, ...] = ()
    tolerance: float = 0.0
    relative_tolerance: float = 0.0
    min_similarity: float | None = None
    marked: bool = False

    @property
    def closed(self) -> bool:
        """Whether every possible answer is known beforehand: what classifiers and pooled votes need."""
        return self.kind in ("choice", "label")

    def parse(self, response: str, query: Query) -> str | None:
        """The canonical answer in `response`, or None."""
        text = _after_marker(response)
        if self.kind == "choice":
            return _choice(text, query.options)
        if self.kind == "label":
            return _label(text, self.labels)
        if self.kind == "number":
            return None if self.marked and not (_is_marked(response) or _is_number(response)) else _number(response)
        return None if self.marked and not MARKER.search(response) else normalise(text) or None

    def gold(self, response: str, query: Query) -> str | None:
        """The canonical answer in a response that a person gave: never cut off, so it needs no marker."""
        return replace(self, marked=False).parse(response, query)

    def canonical(self, response: str, answer: str) -> str:
        """The response to train on: the answer's own form where the response is nothing but that answer."""
        closed = self.closed and _spaceless(response) == _spaceless(answer)
        return answer if closed else response

    def meaning(self, embed: Embed, groups: Iterable[Sequence[str | None]]) -> Meaning | None:
        """What `same` and `group` need to compare the answers within each of `groups`; None where answers agree by match."""
        return read_meaning(embed, groups) if self.kind == "text" and self.min_similarity is not None else None

    def same(self, left: str | None, right: str | None, meaning: Meaning | None = None) -> bool:
        """Whether two parsed answers count as one; symmetric. A failed vote agrees with nothing, itself included.

        Without `meaning` texts agree by match alone.
        """
        if left is None or right is None:
            return False
        if self.kind == "number" and left != right:
            return self._near(Fraction(left), Fraction(right))
        if self.kind == "text" and meaning and self.min_similarity is not None:
            return meaning.similarity(left, right) >= self.min_similarity
        return left == right

    def group(self, answers: Sequence[str | None], meaning: Meaning | None = None) -> list[tuple[str, list[int]]]:
        """Parsed answers that agree, as (the first one's form, indices), largest group first, ties by first appearance.

        Which answers form a group does not depend on their order. Any two numbers of a group are the `same`; of texts, a
        cluster's mean similarity is at least `min_similarity`.
        """
        parsed = [index for index, answer in enumerate(answers) if answer is not None]
        values = [answers[index] or "" for index in parsed]
        if self.kind == "number" and (self.tolerance or self.relative_tolerance):
            found = _windows([Fraction(value) for value in values], self._near)
        elif self.kind == "text" and meaning and self.min_similarity is not None:
            found = cluster(values, meaning, self.min_similarity)
        else:
            found = [[i for i, value in enumerate(values) if value == form] for form in dict.fromkeys(values)]
        groups = [(values[members[0]], [parsed[i] for i in members]) for members in found]
        return sorted(groups, key=lambda group: (-len(group[1]), group[1][0]))

    def _near(self, left: Fraction, right: Fraction) -> bool:
        """|left - right| at most the absolute tolerance, or the relative one times the larger magnitude."""
        allowed = Fraction(str(self.relative_tolerance)) * max(abs(left), abs(right))
        return abs(left - right) <= max(Fraction(str(self.tolerance)), allowed)


def resolve_answers(spec: AnswerSpec, labeled: Sequence[Example]) -> Answers:
    """The answer kind of a job: as the spec says, or found from the labeled rows when it says auto."""
    responses = [example.response for example in labeled]
    marked = bool(labeled) and all(map(_is_marked, responses))
    match spec:
        case LabelAnswer():
            return Answers("label", tuple(spec.labels or _distinct(labeled)))
        case NumberAnswer():
            return Answers("number", (), spec.tolerance, spec.relative_tolerance, marked=marked)
        case TextAnswer():
            least = spec.min_similarity if spec.agree_by == "meaning" else None
            return Answers("text", min_similarity=least, marked=marked and all(map(MARKER.search, responses)))
    if spec.kind == "choice" or all(example.query.options for example in labeled):
        return Answers("choice")
    numbers = all(_is_number(_stated(response)) for response in responses)
    if numbers and any(map(is_reasoned, responses)):  # few distinct results of calculations are still no closed set
        return Answers("number", marked=marked)
    distinct = _distinct(labeled)
    if len(distinct) <= min(LABEL_LIMIT, len(labeled) // 2) and max(map(len, distinct)) <= LABEL_LENGTH:
        return Answers("label", distinct)
    if numbers:
        return Answers("number", marked=marked)
    return resolve_answers(TextAnswer(), labeled)


def with_answers(labeled: Sequence[Example], answers: Answers, *, file: str) -> tuple[Example, ...]:
    """The examples with their answers in canonical form. Raises DataError for a response that holds none."""
    out = []
    for example in labeled:
        answer = answers.gold(example.response, example.query)
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


def is_reasoned(response: str) -> bool:
    """Whether anything comes before the marked answer: the response holds more than its answer."""
    starts = [response.rfind(RESULT), *(found.start() for found in MARKER.finditer(response))]
    return bool(response[: max(0, *starts)].strip())


def _distinct(labeled: Sequence[Example]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_after_marker(example.response) for example in labeled))


def _windows(values: Sequence[Fraction], near: Callable[[Fraction, Fraction], bool]) -> list[list[int]]:
    """Indices of numbers in groups any two members of which are near: the largest such group, then that of the rest, …

    Tolerance is not transitive, so this is a choice; it looks at sorted values only, never at their order of arrival.
    Of equally large groups the one with the smaller spread is taken, then the one of lower values.
    """
    rest = sorted(range(len(values)), key=lambda i: (values[i], i))
    groups = []
    while rest:
        windows = []
        for start, low in enumerate(rest):
            end = start + 1
            while end < len(rest) and near(values[low], values[rest[end]]):
                end += 1
            windows.append((end - start, values[low] - values[rest[end - 1]], -start))
        size, _, start = max(windows)
        groups.append(sorted(rest[-start : size - start]))
        rest = rest[:-start] + rest[size - start :]
    return groups


def _after_marker(response: str) -> str:
    """What follows the last "Answer:", where there is one; else the whole response."""
    found = list(MARKER.finditer(response))
    return (response[found[-1].end() :] if found else response).strip()


def _is_marked(response: str) -> bool:
    return RESULT in response or MARKER.search(response) is not None


def _stated(response: str) -> str:
    """What follows the last "####" or "Answer:", else the whole response: where a number is looked for."""
    return _after_marker(response.rpartition(RESULT)[2])


def _is_number(text: str) -> bool:
    """Whether the text is nothing but one number, with a currency or per cent sign or a full stop about it at most."""
    return NUMBER.fullmatch(text.replace(MINUS, "-").strip("$€£% \n").removesuffix(".")) is not None


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
    """The only number in the first sentence with one after the last "Answer:" or "####", else in the whole response.

    Canonical decimal text.
    """
    stated = _stated(response)
    parts = [stated] if stated == response.strip() else SENTENCE.split(stated)
    numbers = next(filter(None, (NUMBER.findall(part.replace(MINUS, "-")) for part in parts)), [])
    found = {_canonical(sign + digits) for sign, digits in numbers}
    return found.pop() if len(found) == 1 else None


def _canonical(text: str) -> str | None:
    text = text.replace(",", "")
    if len(text) > NUMBER_LENGTH:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return format(DIGITS.add(DIGITS.normalize(value), 0), "f")

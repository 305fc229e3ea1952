"""Counts over the rows of one file, in constant memory."""

import heapq
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

from pydantic import BaseModel, Field

from worker.semisup.ingest.columns import Mapped
from worker.semisup.ingest.findings import Finding, IngestOptions
from worker.semisup.ingest.seen import Seen
from worker.semisup.ingest.text import normalised, row_key

MAX_ERRORS = 1000  # kept; all are counted
MAX_WARNINGS = 100  # of each code
MAX_LABELS = 1000  # distinct answers up to which a file is taken to have labels,
MAX_LABEL_CHARS = 200  # and their length
SHOWN_LABELS = 100
LONGEST = 20  # rows named by their line
WORD_STEPS = tuple(2**power for power in range(6, 18))  # limits of LMs are powers of two


class Lengths(BaseModel):
    """Characters of a row, prompt and response together."""

    p50: int
    p99: int
    max: int


class LongRow(BaseModel):
    line: int
    words: int


class Words(BaseModel):
    """Words of a row, all turns and the response together: text between spaces. No usual tokenizer has a token of two words,
    so an LM's tokens of the row are at least as many.
    """

    over: dict[int, int] = Field(description="Rows with more words than this many; steps that no row passes are left out.")
    longest: list[LongRow] = Field(description=f"At most {LONGEST}, most words first.")


class Stats(BaseModel):
    chars: Lengths | None = None
    words: Words | None = None
    labels: int | None = Field(None, description="Distinct answers; null above 1000 or 200 characters: then they are texts.")
    label_distribution: dict[str, int] | None = Field(None, description="The 100 most frequent.")


class Tally:
    """Counts of a validation. Bounded: distinct lengths are few (their sum is the file), labels are capped."""

    def __init__(self, options: IngestOptions) -> None:
        self._labels_ignored = options.role == "unlabeled"
        self.errors: list[Finding] = []
        self.error_counts: Counter[str] = Counter()
        self.labeled = self.unlabeled = 0
        self._lengths: Counter[int] = Counter()
        self._words: Counter[int] = Counter()
        self._longest: list[tuple[int, int]] = []  # a heap of (words, -line)
        self._labels: Counter[str] | None = Counter()
        self._duplicates: list[int] = []
        self._duplicate_count = 0
        self._conflicts: list[Finding] = []
        self._conflict_count = 0
        self._ignored = 0  # targets in a file declared unlabeled
        self._first_unlabeled: list[int] = []

    def refuse(self, finding: Finding) -> None:
        self.error_counts[finding.code] += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(finding)

    def add(self, row: Mapped, seen: Seen, id_column: str | None) -> None:
        if id_column is not None and (earlier := seen.first(b"id" + row.query.id.encode(), row.line, b"")):
            given = row.query.id.removeprefix("row-")
            self.refuse(duplicate_id(given, id_column, earlier[0], row.line))
            return
        target = "" if row.target_text is None else normalised(row.target_text)
        target_key = blake2b(target.encode(), digest_size=8).digest() if target else b""
        if earlier := seen.first(b"text" + row_key(row.query), row.line, target_key):
            self._repeated(row, earlier, target_key)
        if row.answer is None or self._labels_ignored:
            self.unlabeled += 1
            self._ignored += row.answer is not None
            if len(self._first_unlabeled) < 5:
                self._first_unlabeled.append(row.line)
        else:
            self.labeled += 1
            self._count_label(row.answer)
        self._measure(row)

    def _measure(self, row: Mapped) -> None:
        texts = [*(message.content for message in row.query.messages), row.response or ""]
        self._lengths[sum(map(len, texts))] += 1
        words = sum(len(text.split()) for text in texts)
        self._words[words] += 1
        if len(self._longest) < LONGEST:
            heapq.heappush(self._longest, (words, -row.line))
        elif words > self._longest[0][0]:
            heapq.heapreplace(self._longest, (words, -row.line))

    def _repeated(self, row: Mapped, earlier: tuple[int, bytes], target_key: bytes) -> None:
        line, target = earlier
        if target and target_key and target != target_key:
            self._conflict_count += 1
            if len(self._conflicts) < MAX_WARNINGS:
                message = f"Lines {line} and {row.line} ask the same and have different targets."
                fix = "Correct one of them."
                self._conflicts.append(
                    Finding(code="conflicting_labels", message=message, severity="warning", lines=(line, row.line), fix=fix)
                )
        else:
            self._duplicate_count += 1
            if len(self._duplicates) < MAX_WARNINGS:
                self._duplicates.append(row.line)

    def _count_label(self, answer: str) -> None:
        if self._labels is not None:
            self._labels[answer] += 1
            if len(self._labels) > MAX_LABELS or len(answer) > MAX_LABEL_CHARS:
                self._labels = None

    def warnings(self) -> list[Finding]:
        found = [item.model_copy(update={"count": self._conflict_count}) for item in self._conflicts]
        if self._duplicates:
            message = f"{self._duplicate_count} rows repeat an earlier row."
            found.append(
                _warning(
                    "duplicate_rows", message, self._duplicate_count, self._duplicates, "Delete them, or keep them as weight."
                )
            )
        if self.labeled and self.unlabeled:
            message = f"{self.unlabeled} of {self.labeled + self.unlabeled} rows have no target."
            fix = "A labeled file needs a target in every row; in an unlabeled file targets are ignored."
            found.append(_warning("mixed_labels", message, self.unlabeled, self._first_unlabeled, fix))
        if self._ignored:
            message = f"{self._ignored} rows have a target: only the report of a job reads it."
            found.append(_warning("labels_ignored", message, self._ignored, (), "Nothing, or leave the targets out."))
        return [*found, *self._label_variants()]

    def _label_variants(self) -> list[Finding]:
        forms: dict[str, list[str]] = {}
        for label in self._labels or ():
            forms.setdefault(normalised(label), []).append(label)
        variants = [labels for labels in forms.values() if len(labels) > 1]
        return [
            _warning(
                "label_variants",
                f"Labels that differ in case or space only: {labels!r:.150}.",
                len(labels),
                (),
                "Write them alike.",
            )
            for labels in variants[:MAX_WARNINGS]
        ]

    def stats(self) -> Stats:
        shown = None if self._labels is None else dict(self._labels.most_common(SHOWN_LABELS))
        return Stats(
            chars=_percentiles(self._lengths),
            words=_words(self._words, self._longest),
            labels=None if self._labels is None else len(self._labels),
            label_distribution=shown,
        )


def duplicate_id(given: str, column: str, first: int, second: int) -> Finding:
    return Finding(
        code="duplicate_id",
        message=f"Line {second}: the id {given!r} is that of line {first}.",
        line=second,
        lines=(first, second),
        path=column,
        got=given,
        fix="Give every row an id of its own, or none.",
    )


def _warning(code: str, message: str, count: int, lines: Sequence[int], fix: str) -> Finding:
    return Finding(code=code, message=message, severity="warning", count=count, lines=tuple(lines), fix=fix)


def _words(counts: Counter[int], longest: Sequence[tuple[int, int]]) -> Words | None:
    if not counts:
        return None
    over = {step: sum(rows for words, rows in counts.items() if words > step) for step in WORD_STEPS}
    named = [LongRow(line=-place, words=words) for words, place in sorted(longest, reverse=True)]
    return Words(over={step: rows for step, rows in over.items() if rows}, longest=named)


def _percentiles(lengths: Counter[int]) -> Lengths | None:
    """Nearest-rank percentiles."""
    total = lengths.total()
    if not total:
        return None
    found: dict[str, int] = {}
    passed = 0
    for length in sorted(lengths):
        passed += lengths[length]
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            if name not in found and passed >= share * total:
                found[name] = length
    return Lengths(**found)

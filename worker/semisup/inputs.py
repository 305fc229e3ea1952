"""A job's files as one split, checked against each other. The command line and the service's runner read them here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.semisup.data import Example, Split
from worker.semisup.errors import DataError
from worker.semisup.ingest.load import Gold, check_split, overlaps, read_labeled, read_unlabeled
from worker.semisup.ingest.text import row_key
from worker.semisup.spec import JobSpec

MIN_LABELED = 2
LEAKAGE = ("test_leakage", "validation_leakage")  # what evaluation.on_leakage is about


@dataclass(frozen=True)
class Source:
    """A file of rows: where it lies, what it was called, and what the uploader said of it."""

    path: Path
    filename: str
    options: dict[str, Any] | None = None

    @classmethod
    def at(cls, path: Path) -> "Source":
        return cls(path, path.name)


@dataclass(frozen=True)
class Inputs:
    """`gold` holds answers that the unlabeled file happened to carry: for the report alone. `notes` go into the report.

    `shared` counts the rows that two files have in common, before any were dropped.
    """

    split: Split
    gold: Gold
    notes: tuple[str, ...]
    shared: Mapping[str, int]


def load_inputs(
    spec: JobSpec, labeled: Source, unlabeled: Source | None, held_out: Source | None, validation: Source | None = None
) -> Inputs:
    """Read and check the files of a job. Raises DataError, naming the file, for rows or overlaps that cannot be used."""
    labels = read_labeled(labeled.path, labeled.filename, labeled.options, "l")
    if len(labels) < MIN_LABELED:
        raise DataError(
            f"{labeled.filename} has {len(labels)} labeled rows; at least {MIN_LABELED} are needed.",
            code="too_few_labeled",
            param="training_file",
            hint="Add labeled rows.",
        )
    tests = read_labeled(held_out.path, held_out.filename, held_out.options, "t") if held_out else ()
    decide = read_labeled(validation.path, validation.filename, validation.options, "v") if validation else ()
    queries, gold = read_unlabeled(unlabeled.path, unlabeled.filename, unlabeled.options, "u") if unlabeled else ((), {})
    allow = LEAKAGE if spec.evaluation.on_leakage != "error" else ()
    k = spec.propagation.k if queries and spec.propagation.in_context else 0
    found = check_split(labels, queries, tests, validation=decide, k=k, allow=allow)
    for finding in found:
        if finding.severity == "error":
            raise DataError(finding.message, code=finding.code, param=finding.path or "training_file", hint=finding.fix)
    notes = [finding.message for finding in found]
    shared = overlaps(Split(labels, queries, tests, decide))
    decide = _without(decide, tests)  # a reported row never decides
    if spec.evaluation.on_leakage == "drop":
        tests, decide = _without(tests, labels), _without(decide, labels)
    if gold:
        notes.append(f"{len(gold)} unlabeled rows carry answers: they were kept from training and read by this report only.")
    return Inputs(Split(labels, queries, tests, decide), gold, tuple(notes), shared)


def _without(rows: tuple[Example, ...], others: tuple[Example, ...]) -> tuple[Example, ...]:
    seen = {row_key(example.query) for example in others}
    return tuple(example for example in rows if row_key(example.query) not in seen)

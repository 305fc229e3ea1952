"""A job's files as one split, checked against each other. The command line and the service's runner read them here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.semisup.data import Example, Split
from worker.semisup.errors import DataError
from worker.semisup.ingest.load import Gold, check_split, read_labeled, read_unlabeled
from worker.semisup.ingest.text import row_key
from worker.semisup.spec import JobSpec

MIN_LABELED = 2


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
    """`gold` holds answers that the unlabeled file happened to carry: for the report alone. `notes` go into the report."""

    split: Split
    gold: Gold
    notes: tuple[str, ...]


def load_inputs(spec: JobSpec, labeled: Source, unlabeled: Source | None, held_out: Source | None) -> Inputs:
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
    queries, gold = read_unlabeled(unlabeled.path, unlabeled.filename, unlabeled.options, "u") if unlabeled else ((), {})
    allow = ("test_leakage",) if spec.evaluation.on_leakage != "error" else ()
    k = spec.propagation.k if queries and spec.propagation.in_context else 0
    found = check_split(labels, queries, tests, k=k, allow=allow)
    for finding in found:
        if finding.severity == "error":
            raise DataError(finding.message, code=finding.code, param=finding.path or "training_file", hint=finding.fix)
    notes = [finding.message for finding in found]
    if spec.evaluation.on_leakage == "drop":
        tests = _without(tests, labels)
    if gold:
        notes.append(f"{len(gold)} unlabeled rows carry answers: they were kept from training and read by this report only.")
    return Inputs(Split(labels, queries, tests), gold, tuple(notes))


def _without(tests: tuple[Example, ...], labels: tuple[Example, ...]) -> tuple[Example, ...]:
    seen = {row_key(example.query) for example in labels}
    return tuple(example for example in tests if row_key(example.query) not in seen)

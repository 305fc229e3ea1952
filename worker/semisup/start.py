"""Earlier jobs' adapters: going on from one (what lies in its folder, whether this job can), and which rows they have seen."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.semisup.data import Adapter, Example, Split
from worker.semisup.errors import DataError, SpecError
from worker.semisup.ingest.load import read_labeled
from worker.semisup.ingest.text import row_key
from worker.semisup.inputs import Source
from worker.semisup.outside import Outside
from worker.semisup.spec import JobSpec

HELD_OUT = (
    "Labels held out for calibration may be rows that the earlier adapter has learned, so nothing can be promised on them."
)
HELD_OUT_HINT = "Set calibration.mode to 'cross_fit': its folds start from the base LM."


def adapter_at(folder: Path) -> Adapter:
    """The adapter whose files lie in `folder`, as an earlier job left them. Its steps are that job's: 0 here."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    kind = "lora" if (folder / "adapter_config.json").is_file() else "full"
    return Adapter(str(folder), kind, digest.hexdigest(), 0, 0, 0.0)  # type: ignore[arg-type]


def go_on(spec: JobSpec, split: Split, folder: Path, job: str, learned: Iterable[Source]) -> tuple[Adapter, Split, list[str]]:
    """The adapter in `folder`, which `job` left, the rows it may be judged on, and what the report says of both.

    `learned` are the labeled files of that job and of those it went on from itself. Raises DataError and SpecError.
    """
    start = adapter_at(folder)
    check_start(spec, {"trainable": start.kind}, whose=job, unlabeled=bool(split.unlabeled))
    earlier = ((source.filename, read_labeled(source.path, source.filename, source.options)) for source in learned)
    split, notes = without_seen(spec, split, earlier)
    return start, split, [*notes, f"Training went on from the adapter of {job} (sha256 {start.sha256})."]


def check_start(spec: JobSpec, was: Mapping[str, Any], *, whose: str, unlabeled: bool) -> None:
    """Raises SpecError where a job of `spec` cannot go on from an adapter, would not, or would measure on what it learned.

    `was`: hyperparameters it was made with, as JSON: `trainable`, and `lora` where that is known. `whose` is for the message;
    `unlabeled`: whether the job has such rows.
    """
    now = spec.hyperparameters.model_dump(mode="json")
    for name in ("trainable", "lora"):
        if name in was and was[name] != now[name] and (name == "trainable" or now["trainable"] == "lora"):
            raise SpecError(
                f"The adapter of {whose} was made with {name} {was[name]!r}, and goes on with it; asked for is {now[name]!r}.",
                code="adapter_mismatch",
                param=f"hyperparameters.{name}",
                hint=f"Set hyperparameters.{name} to {was[name]!r}.",
            )
    if unlabeled and not spec.propagation.in_weight:
        raise SpecError(
            f"Nothing would start from the adapter of {whose}: propagation.in_weight is off, so there is no warm-up.",
            code="cross_field",
            param="propagation.in_weight",
            hint="Leave propagation.in_weight on, or start from the base LM.",
        )
    if spec.calibration.mode == "held_out":
        raise SpecError(HELD_OUT, code="cross_field", param="calibration.mode", hint=HELD_OUT_HINT)


def without_seen(spec: JobSpec, split: Split, earlier: Iterable[tuple[str, Sequence[Example]]]) -> tuple[Split, list[str]]:
    """`split` without held-out rows that the earlier adapter was trained on, and notes that say so.

    `earlier`: (file name, labeled rows) of every job this one goes on from. What happens to such rows is
    `evaluation.on_leakage`. Raises DataError `test_leakage` or `validation_leakage`.
    """
    notes: list[str] = []
    for filename, rows in earlier:
        seen = {row_key(example.query) for example in rows}
        parts = {"test_file": split.held_out, "validation_file": split.validation}
        clean = {name: tuple(e for e in part if row_key(e.query) not in seen) for name, part in parts.items()}
        for name, part in parts.items():
            if not (count := len(part) - len(clean[name])):
                continue
            message = f"{count} rows of '{name}' are labeled rows of {filename}, which the earlier adapter was trained on."
            if spec.evaluation.on_leakage == "error":
                raise DataError(
                    message, code=f"{name.removesuffix('_file')}_leakage", param=name, hint="Take these rows out of the file."
                )
            notes.append(f"{message} They were dropped." if spec.evaluation.on_leakage == "drop" else message)
        if spec.evaluation.on_leakage == "drop":
            split = Split(split.labeled, split.unlabeled, clean["test_file"], clean["validation_file"])
    return split, notes


def answered_from_memory(spec: JobSpec, split: Split, outside: Outside) -> tuple[frozenset[str], list[str]]:
    """Ids of labeled rows that a collaborator's adapter was trained on, and notes that say so.

    Their votes show nothing of how it does on new rows, so they calibrate nothing (stages/calibrate.py); they are trained on
    as ever. Raises DataError for a file that cannot be read.
    """
    ids: set[str] = set()
    notes = []
    for name in dict.fromkeys(c.adapter for c in spec.propagation.active if c.adapter):
        files = [Source(Path(f.path), f.filename or Path(f.path).name, f.options) for f in outside.adapter(name).learned]
        seen = {row_key(row.query) for file in files for row in read_labeled(file.path, file.filename, file.options)}
        known = {example.id for example in split.labeled if row_key(example.query) in seen}
        if known:
            notes.append(
                f"{len(known)} of {len(split.labeled)} labeled rows are rows that the collaborating adapter {name} was trained "
                "on: votes are not weighed or judged by them."
            )
        ids |= known
    return frozenset(ids), notes

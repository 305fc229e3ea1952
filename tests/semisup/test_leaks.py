"""What may not leak does not: golds of unlabeled rows into anything but the report, held-out answers into any training.

Whole jobs from CSV files, stage by stage and byte by byte (methods.md A1 and A2).
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.semisup.builders import TINY_JOB
from worker.semisup.errors import DataError
from worker.semisup.inputs import Inputs, Source, load_inputs
from worker.semisup.job import run_job
from worker.semisup.keep import DirectoryKeep
from worker.semisup.spec import JobSpec

COLOURS = ("red", "blue")
SPEC = JobSpec.model_validate({**TINY_JOB, "answer": {"kind": "auto"}, "evaluation": {"with_neighbours": False}})
REPORTING = ("report", "artifacts")


def truth(start: int, count: int) -> list[tuple[str, str]]:
    return [(f"item {i} is painted {COLOURS[i % 2]}", COLOURS[i % 2]) for i in range(start, start + count)]


def randomised(rows: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """Other answers: half of them of the task, half of them strings that nobody has seen."""
    generator = random.Random(seed)
    return [(text, generator.choice([*COLOURS, f"noise {i}", f"other {i}"])) for i, (text, _) in enumerate(rows)]


def csv(folder: Path, name: str, rows: Sequence[tuple[str, str]], answers: bool = True) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["text,label", *map(",".join, rows)] if answers else ["text", *(text for text, _ in rows)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return Source.at(path)


FILES = {"labeled": truth(0, 8), "unlabeled": truth(1000, 10), "test": truth(100, 8), "validation": truth(200, 12)}


@pytest.fixture
def job(lab, tmp_path) -> Callable[..., "Ran"]:
    """Runs a job from CSV files; a name of FILES replaces that file's rows."""

    def go(name: str, *, with_golds: bool = True, spec: JobSpec = SPEC, **changed: Sequence[tuple[str, str]]) -> Ran:
        folder = tmp_path / name
        sources = {
            role: csv(folder, f"{role}.csv", rows, role != "unlabeled" or with_golds)
            for role, rows in (FILES | changed).items()
        }
        inputs = load_inputs(spec, sources["labeled"], sources["unlabeled"], sources["test"], sources["validation"])
        keep = DirectoryKeep(folder / "out", {}, chunk_size=4)
        lab.tick = keep.tick
        outcome = run_job(spec, inputs.split, lab=lab, keep=keep, gold=inputs.gold, notes=inputs.notes, shared=inputs.shared)
        return Ran(keep.root / "stages", Path(outcome.artefacts.path), outcome.adapter.sha256)

    return go


class Ran:
    """`stages`: the manifest's files of every stage and chunk. `artefacts`: bytes of every file but the report."""

    def __init__(self, stages: Path, artefacts: Path, sha256: str) -> None:
        self.sha256 = sha256
        self.stages = {
            str(path.parent.relative_to(stages)): json.loads(path.read_text())["files"]
            for path in sorted(stages.rglob("manifest.json"))
        }
        files = {str(p.relative_to(artefacts)): p.read_bytes() for p in sorted(artefacts.rglob("*")) if p.is_file()}
        self.report = json.loads(files.pop("report.json"))
        self.artefacts = {name: content for name, content in files.items() if name != "report.md"}

    def trained(self) -> dict[str, Any]:
        """Every stage but those that read held-out answers by their trade."""
        asks = ("evaluate", "validate")
        return {
            name: files
            for name, files in self.stages.items()
            if name not in REPORTING and not name.startswith("arms/") and not set(name.split("/")) & set(asks)
        }


def without_golds(report: dict[str, Any]) -> dict[str, Any]:
    body = {key: value for key, value in report.items() if key != "seconds"}
    body["notes"] = [
        note for note in report["notes"] if "unlabeled rows carry answers" not in note
    ]  # says that golds are there
    body["calibration"] = {"held_out": report["calibration"]["held_out"]}
    body["rounds"] = [{k: v for k, v in row.items() if k != "pseudo_label_accuracy"} for row in report["rounds"]]
    for row in body["rounds"]:
        row["reliability"] = row["reliability"] and {k: v for k, v in row["reliability"].items() if k != "true"}
    return body


@pytest.mark.slow
def test_golds_of_unlabeled_rows_change_no_byte_but_the_reports_own_keys(job):
    true = job("true")
    for other in (job("random", unlabeled=randomised(FILES["unlabeled"], 1)), job("absent", with_golds=False)):
        assert other.sha256 == true.sha256
        assert other.stages.keys() == true.stages.keys()
        assert {n: f for n, f in other.stages.items() if n not in REPORTING} == {
            n: f for n, f in true.stages.items() if n not in REPORTING
        }
        assert other.artefacts == true.artefacts
        assert without_golds(other.report) == without_golds(true.report)
        # the reports did see golds, and did see other ones: the comparison above compares something
        assert other.report["rounds"][0].get("pseudo_label_accuracy") != true.report["rounds"][0]["pseudo_label_accuracy"]
    assert {"round-1/propagate/00000", "round-1/select", "round-1/evolve", "round-1/validate/00000"} <= true.stages.keys()
    assert {"samples.jsonl", "selected.jsonl", "adapter/adapter_model.safetensors", "adapter/lineage.json"} <= set(
        true.artefacts
    )


@pytest.mark.slow
def test_held_out_answers_reach_the_guard_and_the_report_and_no_training(job):
    true = job("true")
    noisy = {name: randomised(FILES[name], seed) for seed, name in enumerate(("test", "validation"))}
    other = job("random", **noisy)
    assert other.trained() == true.trained()
    assert {"round-1/warmup", "round-1/select", "round-1/evolve", "labels-only/early", "labels-only/matched"} <= set(
        true.trained()
    )
    assert other.report["task"]["labels"] == true.report["task"]["labels"] == list(COLOURS)
    assert (other.report["task"]["unseen_labels"] > 0, true.report["task"]["unseen_labels"]) == (True, 0)
    assert other.report["arms"] != true.report["arms"]


# --- rows that two files share --------------------------------------------------------------------------------------------


def shared(tmp_path: Path, on_leakage: str = "error", **changed: Sequence[tuple[str, str]]) -> Inputs:
    spec = JobSpec.model_validate({"evaluation": {"on_leakage": on_leakage}})
    sources = {role: csv(tmp_path, f"{role}.csv", rows) for role, rows in (FILES | changed).items()}
    return load_inputs(spec, sources["labeled"], sources["unlabeled"], sources["test"], sources["validation"])


def disguised(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What a reader takes for the same: other case, other spaces, full-width digits."""
    wide = {ord(digit): 0xFF10 + int(digit) for digit in "0123456789"}
    return [(f" {text.upper().translate(wide).replace(' ', '  ')} ", label) for text, label in rows]


def test_every_pair_of_files_is_compared_by_what_a_reader_sees(tmp_path):
    found = shared(
        tmp_path,
        "allow",
        unlabeled=[*FILES["unlabeled"], *disguised(FILES["labeled"][:1])],
        test=[*FILES["test"], *disguised(FILES["labeled"][:2]), *disguised(FILES["unlabeled"][:3])],
        validation=[
            *FILES["validation"], *disguised(FILES["labeled"][:4]), *disguised(FILES["unlabeled"][:5]),
            *disguised(FILES["test"][:6]),
        ],
    )  # fmt: skip
    assert found.shared == {
        "labeled/unlabeled": 1,
        "labeled/test": 2,
        "labeled/validation": 4,
        "unlabeled/test": 3 + 1,  # one labeled row is in both as well
        "unlabeled/validation": 5 + 1,
        "test/validation": 6 + 2 + 3,
    }
    assert sum("file too" in note for note in found.notes) == 6


def test_a_labeled_row_among_those_that_decide_is_refused_dropped_or_told(tmp_path):
    leaking = [*FILES["validation"], *disguised(FILES["labeled"][:3])]
    with pytest.raises(DataError, match="3 rows of the validation file are in the labeled file too") as caught:
        shared(tmp_path, validation=leaking)
    assert (caught.value.code, caught.value.hint) == ("validation_leakage", "Take these rows out of the validation file.")
    assert len(shared(tmp_path, "drop", validation=leaking).split.validation) == len(FILES["validation"])
    assert len(shared(tmp_path, "allow", validation=leaking).split.validation) == len(leaking)


def test_a_reported_row_never_decides(tmp_path):
    found = shared(tmp_path, validation=[*FILES["validation"], *disguised(FILES["test"][:2])])
    assert len(found.split.validation) == len(FILES["validation"])
    assert len(found.split.held_out) == len(FILES["test"])
    assert found.notes[0].startswith("2 rows of the validation file are in the test file too: t-")
    assert shared(tmp_path, validation=FILES["test"]).split.validation == ()  # one file under both names: a share decides

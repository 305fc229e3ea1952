"""One (task, seed, arm): which stages it runs, where they are shared, what it depends on."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality.arms import Arm, Arms
from benchmarks.quality.draw import Draw
from benchmarks.quality.errors import BenchError
from benchmarks.quality.stages import CachedLab, SharedKeep, Watch
from benchmarks.quality.tasks import TaskFile
from worker.semisup import lineage
from worker.semisup.keep import canonical_json
from worker.semisup.round import RoundResult, run_round
from worker.semisup.spec import JobSpec
from worker.semisup.stages.recipe import FORMS
from worker.semisup.task import Task, make_task

NEARLY = 0.99  # of the rows a ratio asks for are as good as all: duplicates leave some sets a few short
# Stages that no unlabeled, validation or test row reaches.
LABELED_ONLY = re.compile(r"round-1/(own-neighbours|warmup|calibrate/fold-\d+/(warmup|neighbours))")


@dataclass(frozen=True)
class Bench:
    """What all arms of one (task, seed) have in common. `code` is a hash of the algorithm's source, or a fixed word."""

    task: TaskFile
    seed: int
    draw: Draw
    lab: CachedLab
    arms: Arms
    work: Path
    code: str
    watch: Watch | None = field(default=None, compare=False)

    def piece(self, arm: Arm) -> "Piece":
        draw = self.draw
        if arm.unlabeled_ratio is not None:
            wanted, there = math.ceil(arm.unlabeled_ratio * len(draw.split.labeled)), len(draw.split.unlabeled)
            draw = draw.with_pool(min(wanted, there) if there >= NEARLY * wanted else wanted)
        return Piece(self, arm, self.arms.spec(arm, self.task, self.seed), draw)


@dataclass(frozen=True)
class Piece:
    bench: Bench
    arm: Arm
    spec: JobSpec
    draw: Draw

    @property
    def fingerprint(self) -> str:
        """sha256 of everything the result depends on besides the code: data, base LM, and what this kind of arm reads."""
        return sha([self.draw.data, self.bench.lab.name, self.arm.kind, self._reads()])

    @property
    def whole(self) -> str:
        """Fingerprint of all that the last round reads."""
        return lineage.fingerprint(self.spec, f"round-{self.spec.rounds}/evaluate")

    def _reads(self) -> Any:
        if self.arm.kind == "cheap":
            return [self.arm.function, self.spec.seed]
        if self.arm.kind == "vanilla":
            return [self.spec.system_prompt, self.spec.hyperparameters.max_length, self.spec.propagation.max_new_tokens]
        if self.arm.kind in ("early", "gold"):
            drop = self.spec.evolve.token_drop
            return [lineage.fingerprint(self.spec, "warmup"), self.spec.evaluation.dev_fraction, self.horizon(), drop]
        other = [] if self.arm.same_size_as is None else [self.other(self.arm.same_size_as).fingerprint]
        return [self.whole, *other]

    def other(self, name: str) -> "Piece":
        return self.bench.piece(self.bench.arms[name])

    # --- running --------------------------------------------------------------------------------------------------

    def task(self, draw: Draw | None = None) -> Task:
        return make_task(self.bench.lab, self.spec, (draw or self.draw).split)

    def keep(self) -> SharedKeep:
        return SharedKeep(
            self.bench.work / "stages" / self.bench.task.name / str(self.bench.seed),
            self._place,
            chunk_size=self.spec.propagation.chunk_size,
            watch=self.bench.watch,
        )

    def _place(self, stage: str) -> str:
        """The folder of a stage: the same for two arms if, and only if, all it reads is the same."""
        environment = self.bench.lab.environment
        base = [self.bench.lab.name, environment["device"], environment["precision"], self.bench.code]
        if stage.startswith("round-"):
            try:
                read = lineage.fingerprint(self.spec, stage)
            except KeyError:  # no stage of a job, or one that nobody has declared: not shared
                read = self.fingerprint
            return sha([base, self.draw.labels if LABELED_ONLY.fullmatch(stage) else self.draw.data, read])[:16]
        return sha([base, self.fingerprint])[:16]

    def rounds(self, task: Task, keep: SharedKeep) -> list[RoundResult]:
        found: list[RoundResult] = []
        for number in range(1, self.spec.rounds + 1):
            found.append(run_round(task, number, found[-1] if found else None, keep.within(f"round-{number}")))
        return found

    def horizon(self) -> int:
        """Epochs over the labels that take as many steps as warm-up and evolve of the arm's job, or the ceiling's own.

        From the recipes alone: where the number of selected rows is not known beforehand, all of the pool counts.
        """
        if self.arm.kind == "gold":
            return self.arm.epochs or 1
        task, labeled, pool = self.task(), len(self.draw.split.labeled), len(self.draw.split.unlabeled)
        selection, own = self.spec.selection, labeled if self.spec.evolve.data == "labeled+selected" else 0
        theta = getattr(selection, "theta", 100.0) if getattr(selection, "scope", "all") == "all" else 100.0
        share = getattr(selection, "share", theta / 100)
        warmup, selected = task.recipe("warmup", labeled), own + math.ceil(share * pool)
        evolve = task.recipe("evolve", selected)
        steps = warmup.steps(labeled * len(FORMS[warmup.format]))
        steps += self.spec.rounds * evolve.steps(selected * len(FORMS[evolve.format]))
        return math.ceil(steps / math.ceil(labeled * len(FORMS[warmup.format]) / warmup.batch_size))


def random_share(results: RoundResult) -> float:
    """The share of usable rows that a selector kept: what a random one needs to be of the same size."""
    usable = sum(sample.pseudo_label is not None for sample in results.selection.samples)
    if not usable:
        raise BenchError("No unlabeled row got a usable answer, so there is no size to match.")
    return results.selection.selected / usable


def code_hash(folder: Path) -> str:
    """sha256 over the algorithm's source files: stage outputs of another version are not taken over."""
    files: Sequence[Path] = sorted(folder.rglob("*.py"))
    return sha({str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})[:16]


def sha(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()

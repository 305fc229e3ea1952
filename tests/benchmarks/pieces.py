"""Made-up records and a made-up benchmark: everything the runner needs but a network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.quality.arms import Arms
from benchmarks.quality.runner import Plan
from benchmarks.quality.tasks import load_task

ARMS = {
    "control": "early",
    "ours": "default",
    "ceiling": "gold",
    "arms": [
        {"name": "default", "title": "our default", "group": "semi-supervised", "kind": "job", "priority": 2},
        {"name": "early", "title": "control", "group": "labels only", "kind": "job", "priority": 1},
        {"name": "gold", "title": "ceiling", "group": "ceiling", "kind": "job", "priority": 3},
    ],
}
TASK = """\
name: tiny
title: tiny
sources: [{file: rows.csv, role: train}, {file: rows2.csv, role: test}]
columns: {question: text, answer: colour}
labeled: {per_class: 2}
unlabeled: 4
test: 4
validation: 2
answer: label
"""


class NoLab(SimpleNamespace):
    """A lab for pieces that are never run: a name, an environment, and nothing to embed with."""

    def __init__(self) -> None:
        super().__init__(name="no-lm", environment={"device": "cpu", "precision": "fp32", "threads": 1})

    def remember(self, texts: object, path: Path) -> None: ...


def plan(folder: Path, **changes: Any) -> Plan:
    rows = [f"thing {i} is {('red', 'blue')[i % 2]},{('red', 'blue')[i % 2]}" for i in range(30)]
    (folder / "rows.csv").write_text("\n".join(["text,colour", *rows[:20]]))
    (folder / "rows2.csv").write_text("\n".join(["text,colour", *rows[20:]]))
    (folder / "tiny.yaml").write_text(TASK)
    arms = changes.pop("arms", None) or Arms.model_validate(ARMS)
    given: dict[str, Any] = {
        **{"tasks": [load_task(folder / "tiny.yaml")], "seeds": [0, 1], "chosen": arms.pick(None), "arms": arms},
        **{"data": folder, "results": folder / "results", "work": folder / "work", "code": "c", "command": "bench"},
    }
    return Plan(**given | changes)


def record(task: str, seed: int, arm: str, correct: str, validation: str = "", **more: Any) -> dict[str, Any]:
    places = [*("knn", "lr_self_training", "lr_self_training_weighted", "early", "default"), *("no_x", "no_y", "gold")]
    places += ["half", "rounds", "more"]
    groups = [*["no LM"] * 3, "labels only", "semi-supervised", *["ablation"] * 2, "ceiling", "ratio", *["rounds"] * 2]
    return {
        **{"task": task, "task_title": task, "seed": seed, "arm": arm, "title": f"the {arm}", "place": places.index(arm)},
        **{"group": groups[places.index(arm)], "roles": {"control": "early", "ours": "default", "ceiling": "gold"}},
        **{"correct": correct, "accuracy": correct.count("1") / len(correct), "n": len(correct)},
        **{"validation": validation, "validation_accuracy": validation.count("1") / len(validation) if validation else None},
        **{"date": "2026-11-20T10:00:00+00:00", "machine": {"cpu": "a CPU", "cores": 2}, "lm": "bundled:6", "code": "c"},
        **{"environment": {"device": "cpu", "precision": "bf16", "threads": 2}, "commit": "abc1234", "command": "bench"},
        **{"dataset": task, "unlabeled_ratio": 0.5 if arm == "half" else None, "pseudo": None, "kind": "job"},
        **{"data": f"rows of {task} {seed}", "dev": False, "spec": {"seed": seed, "rounds": 1}},
        **{"counts": {"labeled": 60, "unlabeled": 600, "validation": 100, "test": len(correct), "answers": 12}},
        **more,
    }

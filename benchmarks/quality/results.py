"""Pieces as JSON files, one per (task, seed, arm): what was found, and all that is needed to tell whether it still holds."""

import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.quality.bench import Piece, code_hash
from benchmarks.quality.tasks import HERE as TASKS
from benchmarks.quality.tasks import PROJECT, load_task

PACKAGES = ("torch", "transformers", "peft", "accelerate", "scikit-learn", "numpy", "scipy")
Record = dict[str, Any]
CODE = code_hash(PROJECT / "worker" / "semisup")  # as imported by this process


def path_of(root: Path, task: str, seed: int, arm: str) -> Path:
    return root / task / str(seed) / f"{arm}.json"


def read(path: Path) -> Record | None:
    """`dev` and `dataset` were not written down before they were asked for."""
    if not path.is_file():
        return None
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return {"dev": False, "dataset": dataset_of(record["task"])} | record


@cache
def dataset_of(task: str) -> str:
    """By the project's task file of that name; a task without one is a data set of its own."""
    path = TASKS / f"{task}.yaml"
    return load_task(path).dataset if path.is_file() else task


def read_all(root: Path) -> list[Record]:
    return [record for path in sorted(root.glob("*/*/*.json")) if (record := read(path)) is not None]


def write(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def state(record: Record | None, fingerprint: str) -> str:
    """`missing`, `done`, `failed` (tried again by the next run), or `stale`: made from another spec, data or base LM."""
    if record is None:
        return "missing"
    if record["fingerprint"] != fingerprint:
        return "stale"
    return "failed" if "error" in record else "done"


def header(piece: Piece, command: str) -> Record:
    """Everything but the result. No path, no host name: records are published."""
    split, arms = piece.draw.split, piece.bench.arms
    return {
        "task": piece.bench.task.name,
        "task_title": piece.bench.task.title,
        "dataset": piece.bench.task.dataset,
        "seed": piece.bench.seed,
        "arm": piece.arm.name,
        "title": piece.arm.title,
        "group": piece.arm.group,
        "kind": piece.arm.kind,
        "place": [arm.name for arm in arms.arms].index(piece.arm.name),
        "unlabeled_ratio": piece.arm.unlabeled_ratio,
        "roles": {"control": arms.control, "ours": arms.ours, "ceiling": arms.ceiling},
        "fingerprint": piece.fingerprint,
        "spec": piece.spec.model_dump(mode="json"),
        "data": piece.draw.data,
        "dev": piece.draw.dev,
        "counts": {
            "labeled": len(split.labeled),
            "unlabeled": len(split.unlabeled),
            "test": len(split.held_out),
            "validation": len(split.validation),
            "answers": len({example.answer for example in (*split.labeled, *split.held_out)}),
        },
        "lm": piece.bench.lab.name,
        "environment": piece.bench.lab.environment,
        "machine": machine(),
        "code": CODE,
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def machine() -> Mapping[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": models[0] if models else platform.processor() or platform.machine(), "cores": len(models) or None}


@cache
def commit() -> str:
    """The short commit when first asked, with `-dirty` when source differs from it; `unknown` outside a repository."""
    try:
        found = _git("rev-parse", "--short", "HEAD")
        return f"{found}-dirty" if _git("status", "--porcelain", "-uno", "--", "worker", "benchmarks/quality") else found
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()

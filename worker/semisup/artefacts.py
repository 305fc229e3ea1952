"""What a job leaves behind: the adapter as others load it, what was selected and why, the report for machines and people."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from worker.semisup.data import Adapter, Folder, Query, Report, Sample
from worker.semisup.keep import canonical_json
from worker.semisup.markdown import model_card, readable
from worker.semisup.prompts import conversation
from worker.semisup.rounds import Rounds
from worker.semisup.task import Task


@dataclass(frozen=True)
class Ending:
    """The job's result, the arm it is from, and the adapter that was not kept, where there is one."""

    adapter: Adapter
    arm: str
    other: Adapter | None


def write_artefacts(task: Task, ending: Ending, rounds: Rounds | None, report: Report, seconds: Mapping[str, float]) -> Folder:
    """adapter/ (PEFT layout, model card, lineage.json), selected.jsonl, samples.jsonl, report.json, report.md.

    `selected.jsonl` is the training set of the round that was taken, also where the guard kept the labels-only adapter. The
    adapter that was not kept lies beside it as other-adapter/, unless it is whole weights, which would double the download.
    """
    root = Path(tempfile.mkdtemp(prefix="artefacts-"))
    shutil.copytree(ending.adapter.path, root / "adapter")
    if ending.other and ending.other.kind == "lora":
        shutil.copytree(ending.other.path, root / "other-adapter")
    body = {**report.body, "seconds": {name: round(value, 3) for name, value in seconds.items()}}
    (root / "adapter" / "README.md").write_text(model_card(task, ending.adapter, body), encoding="utf-8")
    _json(root / "adapter" / "lineage.json", lineage(task, ending, rounds))
    _json(root / "report.json", body)
    (root / "report.md").write_text(readable(body), encoding="utf-8")
    samples = [s for result in (rounds.made if rounds else ()) for s in result.selection.samples]
    _lines(root / "samples.jsonl", (json.loads(canonical_json(sample)) for sample in samples))
    queries = {query.id: query for query in task.split.unlabeled}
    chosen = rounds.result.trained_on if rounds else ()
    _lines(root / "selected.jsonl", (training_line(task, queries[s.query_id], s) for s in chosen))
    digest = sha256("".join(sorted(sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file())).encode())
    return Folder(str(root), digest.hexdigest())


def training_line(task: Task, query: Query, sample: Sample) -> dict[str, Any]:
    """A selected sample as a chat row that can be uploaded again, its evidence beside the messages."""
    turns = conversation(query, (), task.spec.system_prompt)
    return {
        "messages": [{"role": m.role, "content": m.content} for m in turns]
        + [{"role": "assistant", "content": sample.pseudo_response}],
        "id": sample.query_id,
        "round": sample.round,
        "pseudo_label": sample.pseudo_label,
        "mean_nll": sample.mean_nll,
        "agreement": sample.agreement,
        "resolved_by": sample.resolved_by,
        "neighbours": [list(pair) for pair in sample.neighbours],
    }


def lineage(task: Task, ending: Ending, rounds: Rounds | None) -> dict[str, Any]:
    """Where every example of the adapter came from: labeled ids, and each pseudo-response with its neighbours."""
    evolved = rounds.result if rounds and ending.arm == "evolved" else None
    return {
        "base": task.lab.name,
        "adapter_sha256": ending.adapter.sha256,
        "kind": ending.adapter.kind,
        "arm": ending.arm,
        "round": evolved.number if evolved else None,
        "spec": task.spec.model_dump(mode="json"),
        "labeled": [example.id for example in task.split.labeled],
        "validation": [example.id for example in task.split.validation],
        "held_out": [example.id for example in task.split.held_out],
        "selected": [
            {"id": s.query_id, "round": s.round, "neighbours": [i for i, _ in s.neighbours]}
            for s in (evolved.trained_on if evolved else ())
        ],
        "start_sha256": task.start.sha256 if task.start else None,
        "warmup_sha256": evolved.warm.sha256 if evolved and evolved.warm else None,
        "environment": task.lab.environment,
    }


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8")


def _lines(path: Path, rows: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

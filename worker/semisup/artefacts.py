"""What a job leaves behind: the adapter as others load it, what was selected and why, the report for machines and people."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from worker.semisup.data import Adapter, Folder, Report, Sample
from worker.semisup.keep import canonical_json
from worker.semisup.markdown import model_card, readable
from worker.semisup.prompts import conversation
from worker.semisup.round import RoundResult
from worker.semisup.task import Task


def write_artefacts(
    task: Task, adapter: Adapter, rounds: Sequence[RoundResult], report: Report, seconds: Mapping[str, float]
) -> Folder:
    """adapter/ (PEFT layout, model card, lineage.json), selected.jsonl, samples.jsonl, report.json, report.md."""
    root = Path(tempfile.mkdtemp(prefix="artefacts-"))
    shutil.copytree(adapter.path, root / "adapter")
    body = {**report.body, "seconds": {name: round(value, 3) for name, value in seconds.items()}}
    (root / "adapter" / "README.md").write_text(model_card(task, adapter, body), encoding="utf-8")
    _json(root / "adapter" / "lineage.json", lineage(task, adapter, rounds))
    _json(root / "report.json", body)
    (root / "report.md").write_text(readable(body), encoding="utf-8")
    samples = [s for result in rounds for s in result.selection.samples]
    _lines(root / "samples.jsonl", (json.loads(canonical_json(sample)) for sample in samples))
    _lines(root / "selected.jsonl", (training_line(task, s) for s in (rounds[-1].trained_on if rounds else ())))
    digest = sha256("".join(sorted(sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file())).encode())
    return Folder(str(root), digest.hexdigest())


def training_line(task: Task, sample: Sample) -> dict[str, Any]:
    """A selected sample as a chat row that can be uploaded again, its evidence beside the messages."""
    query = next(q for q in task.split.unlabeled if q.id == sample.query_id)
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


def lineage(task: Task, adapter: Adapter, rounds: Sequence[RoundResult]) -> dict[str, Any]:
    """Where every example of the adapter came from: labeled ids, and each pseudo-response with its neighbours."""
    return {
        "base": task.lab.name,
        "adapter_sha256": adapter.sha256,
        "kind": adapter.kind,
        "spec": task.spec.model_dump(mode="json"),
        "labeled": [example.id for example in task.split.labeled],
        "held_out": [example.id for example in task.split.held_out],
        "selected": [
            {"id": s.query_id, "round": s.round, "neighbours": [i for i, _ in s.neighbours]}
            for s in (rounds[-1].trained_on if rounds else ())
        ],
        "warmup_sha256": rounds[0].warm.sha256 if rounds and rounds[0].warm else None,
        "environment": task.lab.environment,
    }


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8")


def _lines(path: Path, rows: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

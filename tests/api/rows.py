"""Data sets small enough to read, and finished jobs, written through the queries a worker uses."""

import io
import json
from typing import Any

from models.blobs import blobs
from models.db import transaction
from models.queries import leases, stages
from models.queries.leases import Lease
from models.status import JobStatus

WEIGHTS = b"\x00safetensors\xff" * 1000
ANSWERS = ("neg", "pos")
SELECTED: dict[str, Any] = {"selected": 6, "rejected": 6, "reasons": {"below_cut": 6}}
THRESHOLD = 9.4  # mean_nll


def labeled(rows: int = 12, first: int = 0) -> bytes:
    numbers = range(first, first + rows)
    return "".join(json.dumps({"text": f"labeled {i}", "label": ANSWERS[i % 2]}) + "\n" for i in numbers).encode()


def unlabeled(rows: int = 12) -> bytes:
    return "".join(json.dumps({"text": f"unlabeled {i}"}) + "\n" for i in range(rows)).encode()


def sample(number: int, round_number: int = 1) -> dict[str, Any]:
    """Even rows are selected; mean_nll falls with the row number; row 4 could not be scored."""
    return {
        "query_id": f"u-{number:06d}",
        "round": round_number,
        "prompt": f"unlabeled {number}",
        "pseudo_response": "pos",
        "pseudo_label": "pos",
        "mean_nll": None if number == 4 else (100 - number) / 10,
        "agreement": 0.75,
        "resolved_by": "agreement",
        "verdict": "rejected" if number % 2 else "selected",
        "reason": "above_cut" if number % 2 else "below_cut",
        "neighbours": [["l-000001", 0.9]],
        "votes": [{"collaborator": "a", "response": "pos", "answer": "pos", "mean_nll": 0.1, "tokens": 2}],
        "justification": None,
    }


def reported(number: int, rounds: int, samples: int) -> dict[str, Any]:
    """A round as the report has it (docs/report.md); the last one is taken."""
    shares = {"neg": 0.0, "pos": 1.0}
    curve = [{"mean_nll_from": 0.1, "mean_nll_to": 0.4, "confidence": 0.8, "accuracy": 0.75, "n": 12}]
    return {
        "round": number,
        "pool": samples,
        "consistency_rate": 0.5,
        "resolved_by": {"agreement": samples},
        **SELECTED,
        "threshold_mean_nll": THRESHOLD,
        "guarantee": None,
        "note": None,
        "trained_on": 6,
        "accuracy": 0.75,
        "validation": {"n": 4, "right": 3, "accuracy": 0.75},
        "taken": number == rounds,
        "class_shares": {"labeled": {"neg": 0.5, "pos": 0.5}, "pseudo_labels": shares, "selected": shares},
        "reliability": {"mode": "cross_fit", "judged": 12, "unparsed": 0, "curve": curve, "measured_in_round": 1},
        "reliability_note": "Of the 6 judged rows that the same cut selects, 83.3 % are right.",
    }


def claim() -> Lease:
    """The oldest queued job, running from now on."""
    with transaction() as session:
        lease = leases.claim_job(session, "worker-1")
    assert lease is not None
    return lease


def run_to_the_end(samples: int = 12, rounds: int = 2) -> Lease:
    """Claims the oldest queued job and leaves behind what a worker leaves behind, ending with `succeeded`.

    Without rounds it is a job without unlabeled rows.
    """
    lease = claim()
    for number in range(1, rounds + 1):
        picked = [sample(i, number) for i in range(samples)]
        selection = {"samples": picked, "threshold": THRESHOLD, **SELECTED}
        adapter = {"steps": 10 * number, "trained_tokens": 500, "final_loss": 0.25}
        with transaction() as session:
            stages.open_stage(session, lease, f"round-{number}/propagate", 2, samples)
            _commit(session, lease, f"round-{number}/select", "Selection", selection)
            _commit(session, lease, f"round-{number}/evolve", "Adapter", adapter)
    if not rounds:
        with transaction() as session:
            _commit(session, lease, "labels-only/early", "Adapter", {"steps": 10, "trained_tokens": 500, "final_loss": 0.25})
    report = {"schema": 2, "rounds": [reported(number, rounds, samples) for number in range(1, rounds + 1)]}
    with transaction() as session:
        _commit(session, lease, "report", "Report", {"body": report})
    files = {"adapter/adapter_model.safetensors": WEIGHTS, "report.md": b"# Report\n", "report.json": b"{}"}
    stored = {f"files/{path}": _stored(content) for path, content in files.items()}
    with transaction() as session:
        stages.commit_stage(session, lease, "artifacts", {"type": "Folder", "files": stored}, {}, 1.0)
    with transaction() as session:
        leases.finish(session, lease, JobStatus.succeeded)
    return lease


def fail() -> Lease:
    lease = claim()
    with transaction() as session:
        error = {"code": "out_of_memory", "message": "16 rows did not fit.", "param": "hyperparameters.micro_batch_size"}
        leases.finish(session, lease, JobStatus.failed, error=error)
    return lease


def _commit(session: Any, lease: Lease, name: str, kind: str, payload: dict[str, Any]) -> None:
    stages.commit_stage(session, lease, name, {"type": kind, "many": False, "files": {}}, payload, 0.5)


def _stored(content: bytes) -> dict[str, Any]:
    stored = blobs().put(io.BytesIO(content))
    return {"sha256": stored.sha256, "bytes": stored.bytes}

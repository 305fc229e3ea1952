"""A client of the service that keeps a record of what it was told: submits, cancels, pauses, and asks again when unsure."""

import random
import threading
import time
from typing import Any

import httpx

from tests.api.rows import labeled, unlabeled
from tests.chaos.checker import POISON
from tests.chaos.history import Op
from tests.chaos.rig import Rig
from tests.chaos.runner import POISON as POISON_SEED

KINDS = {"small": 4, "middle": 7, "large": 12}  # rows of the unlabeled file
LONG = {"long": 60}  # for those who want to meet a job in the middle
PATIENCE_SECONDS = 120.0


class Client:
    """`ops` is what it did, in order; all methods may be called from several threads."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self._rig, self._random, self._lock = rig, random.Random(seed), threading.Lock()
        self.ops: list[Op] = []
        self.jobs: list[str] = []
        self._number = 0
        with rig.client() as http:
            self._labeled = self._upload(http, labeled(12), "labeled.jsonl")
            self._unlabeled = {
                kind: self._upload(http, unlabeled(rows), f"{kind}.jsonl") for kind, rows in (KINDS | LONG).items()
            }
        self._unlabeled[POISON] = self._unlabeled["small"]

    def _upload(self, http: httpx.Client, content: bytes, name: str) -> str:
        answer = http.post("/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def submit(self, kind: str, *, patience: float = PATIENCE_SECONDS) -> str | None:
        """Asks under one Idempotency-Key until it is answered; the job's id, None when patience ended first."""
        with self._lock:
            self._number += 1
            key = f"order-{self._number}"
        body: dict[str, Any] = {
            "model": "semift-small",
            "training_file": self._labeled,
            "method": {"type": "semi_supervised", "semi_supervised": {"unlabeled_file": self._unlabeled[kind]}},
            "metadata": {"key": key, "kind": kind},
        }
        if kind == POISON:
            body["seed"] = POISON_SEED
        began = time.monotonic()
        while True:
            answer = self._ask("/fine_tuning/jobs", body, {"idempotency-key": key})
            if answer is not None and answer.status_code < 500 and answer.status_code != 409:
                accepted = answer.status_code == 200
                job = str(answer.json()["id"]) if accepted else None
                self._note("submit", key, job, "ok" if accepted else "refused")
                return job
            if time.monotonic() - began > patience:
                self._note("submit", key, None, "unknown")
                return None
            time.sleep(0.3)

    def tell(self, job: str, what: str) -> str:
        """cancel, pause or resume, once; its outcome."""
        answer = self._ask(f"/fine_tuning/jobs/{job}/{what}", None, {})
        known = {200: "ok"} | dict.fromkeys(range(400, 500), "refused")
        outcome = known.get(answer.status_code, "unknown") if answer is not None else "unknown"
        self._note(what, "", job, outcome)
        return outcome

    def _ask(self, path: str, body: Any, headers: dict[str, str]) -> httpx.Response | None:
        """One request on a connection of its own; None when no answer came."""
        try:
            with self._rig.client() as http:
                return http.post(path, json=body, headers=headers)
        except httpx.HTTPError:
            return None

    def _note(self, what: str, key: str, job: str | None, outcome: str) -> None:
        with self._lock:
            self.ops.append(Op(time.time(), what, key, job, outcome))
            if what == "submit" and job:
                self.jobs.append(job)

    def some_job(self) -> str | None:
        with self._lock:
            return self._random.choice(self.jobs[-6:]) if self.jobs else None

"""Two tenants of one service, each with something of every kind."""

from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.main import create_app
from models.keys import parse_key
from tests.api.rows import labeled, run_to_the_end, unlabeled
from tests.api.sending import JOBS, upload
from tests.keys import add_key, auth

Json = dict[str, Any]


class Tenant(NamedTuple):
    """A tenant with something of every kind."""

    name: str
    app: TestClient
    labeled: str
    unlabeled: str
    job: str  # succeeded
    waiting: str  # queued
    adapter: str
    key_id: str
    upload: str  # pending, with a part

    def order(self) -> Json:
        semi = {"unlabeled_file": self.unlabeled}
        method = {"type": "semi_supervised", "semi_supervised": semi}
        return {"model": "semift-small", "training_file": self.labeled, "method": method}


def tenant(app: FastAPI, name: str, samples: int) -> Tenant:
    key = add_key(name)
    client = TestClient(app, headers=auth(key))
    files = upload(client, labeled(), "labeled.jsonl"), upload(client, unlabeled(), "unlabeled.jsonl")
    body = {"model": "semift-small", "training_file": files[0], "unlabeled_file": files[1]}
    job = client.post(JOBS, json=body).json()["id"]
    assert run_to_the_end(samples).job_id == job
    adapter = client.get(f"{JOBS}/{job}").json()["fine_tuned_model"]
    parsed = parse_key(key)
    assert parsed
    announced = {"bytes": 4, "filename": "more.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    going_on = client.post("/v1/uploads", json=announced).json()["id"]
    assert client.post(f"/v1/uploads/{going_on}/parts", files={"data": b"part"}).status_code == 200
    return Tenant(name, client, *files, job, "", adapter, f"key_{parsed.id}", going_on)


class Two(NamedTuple):
    app: FastAPI
    alice: Tenant
    bob: Tenant


def two_tenants() -> Two:
    """Alice has more samples than Bob, so that some ids beneath her job are not beneath his."""
    app = create_app()
    both = tenant(app, "alice", samples=12), tenant(app, "bob", samples=6)
    return Two(app, *(one._replace(waiting=one.app.post(JOBS, json=one.order()).json()["id"]) for one in both))

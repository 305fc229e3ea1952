"""Requests that go wrong, one builder for each way to go wrong."""

from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
from fastapi.testclient import TestClient

from tests.api.rows import labeled, unlabeled

JOBS = "/v1/fine_tuning/jobs"
SEMI = "method.semi_supervised"
JSON = {"content-type": "application/json"}


class World(NamedTuple):
    """A service with one good labeled and one good unlabeled file."""

    app: TestClient
    labeled: str
    unlabeled: str

    def order(self) -> dict[str, Any]:
        semi = {"unlabeled_file": self.unlabeled}
        method = {"type": "semi_supervised", "semi_supervised": semi}
        return {"model": "semift-small", "training_file": self.labeled, "method": method}


Send = Callable[[World], httpx.Response]


class Case(NamedTuple):
    name: str
    send: Send
    status: int
    code: str
    says: str = ""  # in the message or the hint
    param: str | None = None
    line: int | None = None


def rejected(name: str, send: Send, says: str, line: int | None = None) -> Case:
    """A training file with findings: the job on it is refused, with the first of them."""
    return Case(name, send, 400, "invalid_training_file", says, "training_file", line)


def no_job(name: str, path: str) -> Case:
    return Case(name, get(f"{JOBS}/{path}"), 404, "job_not_found", "No job", "fine_tuning_job_id")


def upload(app: TestClient, content: bytes, name: str = "rows.jsonl", **fields: str) -> str:
    response = app.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune", **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def new_world(app: TestClient) -> World:
    return World(app, upload(app, labeled()), upload(app, unlabeled()))


def raw(content: bytes, **headers: str) -> Send:
    return lambda world: world.app.post(JOBS, content=content, headers={**JSON, **headers})


def put(path: str, value: Any) -> Send:
    """The good order with one field set; "$labeled" and "$unlabeled" stand for the two files."""

    def send(world: World) -> httpx.Response:
        body = world.order()
        here = body
        *way, last = path.split(".")
        for step in way:
            here = here.setdefault(step, {})
        here[last] = (
            {"$labeled": world.labeled, "$unlabeled": world.unlabeled}.get(value, value) if isinstance(value, str) else value
        )
        return world.app.post(JOBS, json=body)

    return send


def semi(path: str, value: Any) -> Send:
    return put(f"{SEMI}.{path}", value)


def data(content: bytes, name: str = "rows.csv", **fields: str) -> Send:
    """Uploads a bad training file (which is stored, with its report) and orders a job on it."""

    def send(world: World) -> httpx.Response:
        file = upload(world.app, content, name, **fields)
        found = world.app.get(f"/v1/files/{file}/validation").json()
        assert (found["object"], found["status"]) == ("file.validation", "failed")
        assert all(error["fix"] for error in found["errors"])
        return world.app.post(JOBS, json={**world.order(), "training_file": file})

    return send


def held_out(content: bytes) -> Send:
    return lambda world: semi("test_file", upload(world.app, content))(world)


def training(content: bytes, name: str = "rows.jsonl", *more: tuple[str, Any]) -> Send:
    """A job on a file that is well formed, but of no use for it."""

    def send(world: World) -> httpx.Response:
        body = {**world.order(), "training_file": upload(world.app, content, name)}
        body["method"]["semi_supervised"] |= dict(more)
        return world.app.post(JOBS, json=body)

    return send


def get(path: str) -> Send:
    return lambda world: world.app.get(path)


def bad_upload(*, content: bytes = b"{}", media: str | None = None, **fields: str) -> Send:
    def send(world: World) -> httpx.Response:
        if media is not None:
            return world.app.post("/v1/files", content=content, headers={"content-type": media})
        return world.app.post("/v1/files", files={"file": ("rows.jsonl", labeled())}, data=fields)

    return send


def form(**fields: str) -> Send:
    return bad_upload(purpose="fine-tune", **fields)


def deleted(world: World) -> httpx.Response:
    world = new_world(world.app)
    world.app.delete(f"/v1/files/{world.labeled}")
    return world.app.post(JOBS, json=world.order())


def nested(depth: int) -> bytes:
    return b'{"model":' + b"[" * depth + b"]" * depth + b"}"


def with_rows(*rows: str) -> bytes:
    return ("text,label\n" + "".join(f"good {i},{'ab'[i % 2]}\n" for i in range(6)) + "\n".join(rows) + "\n").encode()


def put_in(world: World, name: str, value: Any) -> dict[str, Any]:
    body = world.order()
    body["method"]["semi_supervised"][name] = value
    return body

"""Every refusal any test here provokes is held to the envelope and to the closed list of codes."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.types import Message, Receive, Scope, Send

from api.codes import FINDINGS, REFUSALS, type_of
from api.middleware import RequestHeaders

KEYS = {"message", "type", "param", "code", "line", "hint", "request_id"}
PROBES = ("/readyz",)  # 503 with what is missing


class Answer(NamedTuple):
    path: str
    status: int
    body: Any  # what its JSON says; None for anything else


def problems(answer: Answer) -> Iterator[str]:
    """What is wrong with a refusal, if anything is."""
    if answer.status < 400 or answer.path in PROBES:
        return
    where = f"{answer.status} of {answer.path[:80]}"
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    if not isinstance(error, dict):
        yield f"{where}: not in the envelope: {answer.body!r:.200}"
        return
    if not error.keys() >= KEYS or error.keys() - KEYS - {"errors"}:
        yield f"{where}: the keys of the envelope differ by {sorted(KEYS ^ (error.keys() - {'errors'}))}"
        return
    code = error["code"]
    unreadable = answer.path.endswith("/preview") and answer.status == 400 and code in FINDINGS
    if code not in REFUSALS and not unreadable:
        yield f"{where}: {code} is no code"
    elif not unreadable and answer.status not in REFUSALS[code].statuses:
        yield f"{where}: {code} is no code of {answer.status}"
    if error["type"] != type_of(answer.status):
        yield f"{where}: the type is {error['type']}"
    for key in ("message", "hint", "request_id"):
        if not error[key]:
            yield f"{where}: no {key}"


class Watched(RequestHeaders):
    """The outermost layer of the app, which writes down what it sees. `seen` belongs to the test that is running."""

    seen: list[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, said = 0, b""

        async def watched(message: Message) -> None:
            nonlocal status, said
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status >= 400:
                said += message.get("body", b"")
                if not message.get("more_body", False) and scope["method"] != "HEAD":
                    self.seen.extend(problems(Answer(scope["path"], status, _json(said))))
            await send(message)

        await super().__call__(scope, receive, watched)


def _json(said: bytes) -> Any:
    try:
        return json.loads(said)
    except ValueError:
        return None

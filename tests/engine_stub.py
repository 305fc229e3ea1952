"""An OpenAI-compatible engine over real HTTP, in a thread: it answers from what it is asked, and fails as it is told to.

`python -m tests.engine_stub` serves it for a look by hand.
"""

import json
import math
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[list[dict[str, str]], int], str]  # messages, seed -> text


def colour(messages: list[dict[str, str]], seed: int) -> str:
    """The colour the last question names, or one that follows from the seed."""
    asked = messages[-1]["content"]
    return next((word for word in ("red", "blue") if word in asked), ("red", "blue")[seed % 2])


@dataclass
class Asked:
    """One request as the engine saw it."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float  # time.monotonic()
    fault: str | None


@dataclass
class EngineStub:
    """`faults` are used up one per request, in order of arrival; None in between is a good answer."""

    say: Say = colour
    faults: list[str | None] = field(default_factory=list)
    seconds: float = 0.0  # a good answer takes
    slow_seconds: float = 5.0  # a slow one takes
    retry_after: str = "0.05"
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    busiest: int = 0
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def answered(self) -> list[str]:
        """The last question of every request that got a good answer."""
        return [a.body["messages"][-1]["content"] for a in self.asked if a.fault is None]

    def fail(self, *faults: str | None) -> None:
        self.faults.extend(faults)

    @contextmanager
    def serving(self) -> Iterator["EngineStub"]:
        with _Server(("127.0.0.1", 0), _handler(self)) as server:
            server.daemon_threads, server.block_on_close = True, False
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
            try:
                yield self
            finally:
                self.stopping.set()
                server.shutdown()
                thread.join()

    @contextmanager
    def taking(self, body: dict[str, Any], headers: dict[str, str]) -> Iterator[str | None]:
        with self._lock:
            fault = self.faults.pop(0) if self.faults else None
            self.asked.append(Asked(body, headers, time.monotonic(), fault))
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            yield fault
        finally:
            with self._lock:
                self._busy -= 1


def completion(text: str, model: str, *, finish: str | None = "stop", logprobs: bool = True) -> dict[str, Any]:
    """A chat completion; every word is a token of log-prob minus its length over ten, and the end token one of minus 0.1."""
    words = [*text.split(), "</s>"]
    content = [{"token": w, "logprob": -len(w) / 10 if w != "</s>" else -0.1, "bytes": None, "top_logprobs": []} for w in words]
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    choice["logprobs"] = {"content": content} if logprobs else None
    usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": len(words) + 1}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}


def mean_nll(text: str) -> float:
    """What `completion` makes of a text, in nats per token."""
    return math.fsum([*(len(word) / 10 for word in text.split()), 0.1]) / (len(text.split()) + 1)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this server is for; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(stub: EngineStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            stub.connections += 1

        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            if not raw:
                return None  # the client was cancelled between its headers and its body
            body = json.loads(raw)
            with stub.taking(body, {name.lower(): value for name, value in self.headers.items()}) as fault:
                if self.path != "/v1/chat/completions":
                    return self._send(404, {"error": {"message": f"no route {self.path}"}})
                getattr(self, f"_{fault or 'good'}")(body)

        def _good(self, body: dict[str, Any], **kwargs: Any) -> None:
            stub.stopping.wait(stub.seconds)
            text = stub.say(body["messages"], body["seed"])
            self._send(200, completion(text, body["model"], **{"logprobs": body["logprobs"], **kwargs}))

        def _limited(self, _: dict[str, Any]) -> None:
            self._send(429, {"error": {"message": "slow down"}}, **{"Retry-After": stub.retry_after})

        def _broken(self, _: dict[str, Any]) -> None:
            self._send(500, {"error": {"message": "out of GPUs"}})

        def _slow(self, body: dict[str, Any]) -> None:
            stub.stopping.wait(stub.slow_seconds)
            self._good(body)

        def _dripping(self, body: dict[str, Any]) -> None:
            """A byte at a time: no single read takes long, the answer never ends."""
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.close_connection = True
            while not stub.stopping.wait(0.02):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return

        def _half(self, body: dict[str, Any]) -> None:
            """JSON cut in the middle, under a length that fits it."""
            raw = json.dumps(completion("red", body["model"])).encode()
            self._send(200, raw[: len(raw) // 2])

        def _cut(self, body: dict[str, Any]) -> None:
            """The connection ends before the promised length."""
            raw = json.dumps(completion("red", body["model"])).encode()
            self._send(200, raw[: len(raw) // 2], promised=len(raw))
            self.close_connection = True

        def _short(self, body: dict[str, Any]) -> None:
            """The server ran out of room before the tokens it was asked for."""
            self._send(200, completion("r", body["model"], finish="length"))

        def _aborted(self, body: dict[str, Any]) -> None:
            self._send(200, completion("r", body["model"], finish=None))

        def _reset(self, _: dict[str, Any]) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def _choiceless(self, _: dict[str, Any]) -> None:
            self._send(200, {"object": "chat.completion", "choices": []})

        def _other_json(self, _: dict[str, Any]) -> None:
            self._send(200, ["not", "a", "completion"])

        def _not_finite(self, body: dict[str, Any]) -> None:
            answer = completion("red", body["model"])
            answer["choices"][0]["logprobs"]["content"][0]["logprob"] = float("-inf")
            self._send(200, answer)

        def _no_logprobs(self, body: dict[str, Any]) -> None:
            self._good(body, logprobs=False)

        def _missing(self, body: dict[str, Any]) -> None:
            """A good answer, for the first token of which the server has no log-prob."""
            answer = completion(stub.say(body["messages"], body["seed"]), body["model"])
            answer["choices"][0]["logprobs"]["content"][0]["logprob"] = -9999.0
            self._send(200, answer)

        def _too_long(self, _: dict[str, Any]) -> None:
            self._send(400, {"error": {"message": "prompt has 5000 tokens, this model reads 4096"}})

        def _unauthorised(self, _: dict[str, Any]) -> None:
            self._send(401, {"error": {"message": f"wrong key {self.headers['authorization']}\nask Ann"}})

        def _moved(self, _: dict[str, Any]) -> None:
            self._send(307, b"", Location=f"{stub.url}/elsewhere")

        def _huge(self, body: dict[str, Any]) -> None:
            self._good(body | {"model": "x" * (9 << 20)})

        def _surrogate(self, body: dict[str, Any]) -> None:
            self._send(200, completion("red \ud800", body["model"]))

        def _send(self, status: int, body: Any, *, promised: int | None = None, **headers: str) -> None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw) if promised is None else promised))
            with suppress(ConnectionError):  # a client that was cancelled, or has waited long enough
                self.end_headers()
                self.wfile.write(raw)

    return Handler


@contextmanager
def engine_stub(faults: Iterable[str | None] = (), **values: Any) -> Iterator[EngineStub]:
    with EngineStub(faults=list(faults), **values).serving() as stub:
        yield stub


if __name__ == "__main__":
    with engine_stub() as stub:
        print(stub.url)  # noqa: T201
        threading.Event().wait()

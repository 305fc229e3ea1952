"""The engine's client: a chunk of conversations goes out, as many at once as the operator allows, and all of them come back.

Rate limits, server errors, timeouts, lost connections and half answers are tried again, with growing and jittered pauses, or
after as long as the server asks for. Nothing else is: a server that understood and refused will refuse again.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from worker.semisup.data import Message
from worker.semisup.engines.endpoint import Endpoint
from worker.semisup.engines.reply import Fault, NoLogprobs, Reply, read_reply
from worker.semisup.errors import EngineAway, EngineRefused

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled from fault to fault
TICK_SECONDS = 0.5
CONNECT_SECONDS = 10.0
MAX_REPLY_BYTES = 8 << 20
SHOWN = 300  # characters of a server's message
PASSING = {408, 409, 425, 429}  # 4xx that are about the moment, not about the request; so are all 5xx
ABOUT_THE_ROW = {400, 413, 422}  # 4xx that may be about this one request, a prompt too long for the server's LM say
SEED_BITS = 31  # what every known server takes
OUTSIDE_ASCII = {code: " " for code in range(32)}


@dataclass
class Patience:
    """How much more of an engine's silence one chunk bears. Any answer makes it whole again.

    `spent`: the engine was given up on before this chunk, so its first fault is its last until it answers.
    """

    seconds: float
    retries: int
    spent: bool = False
    failing_since: float | None = None
    given_up: str | None = None

    def pause(self, fault: Fault, attempt: int) -> float | None:
        """Seconds until the request is sent again, or None: not at all."""
        seconds, retries = (0.0, 0) if self.spent else (self.seconds, self.retries)
        moment = time.monotonic()
        self.failing_since = moment if self.failing_since is None else self.failing_since
        least = fault.after or 0.0
        growing = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 20))
        pause = least + growing * random.uniform(0.5, 1.0)
        if moment + pause - self.failing_since > seconds:
            self.given_up = self.given_up or f"no answer for {seconds:g} s; the last fault: {fault}"
        return None if self.given_up or attempt >= retries else pause

    def answered(self) -> None:
        self.spent, self.failing_since, self.given_up = False, None, None


class RowRefused(Exception):
    """The server refused one request in a way that may be about what is in it."""


class Engine:
    """One server and its open connections. `answered` and `faults` count, over its whole life."""

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name, self.endpoint = name, endpoint
        self.answered = self.faults = 0
        self._runner: asyncio.Runner | None = None
        self._http: httpx.AsyncClient | None = None
        self._down = False  # given up on, and silent since

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        temperature: float,
        seeds: Sequence[int],
        max_new_tokens: int,
        tick: Callable[[int, int], None],
        optional: bool = False,
    ) -> list[Reply]:
        """One reply per conversation, in order. `tick(answered, all)` is called twice a second; what it raises ends the wait.

        Raises EngineRefused at once when the server refuses a request or gives no log-probs, EngineAway when patience is
        exhausted. With `optional`, a request that got no answer is a Reply with `error` instead, and so is one that the
        server refused for what is in it (400, 413, 422), unless it has refused all that it was ever asked.
        """
        bodies = [self._body(c, temperature, s, max_new_tokens) for c, s in zip(conversations, seeds, strict=True)]
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._all(bodies, tick, optional))

    def close(self) -> None:
        if self._runner and self._http:
            self._runner.run(self._http.aclose())
        if self._runner:
            self._runner.close()
        self._runner = self._http = None

    def _body(self, messages: Sequence[Message], temperature: float, seed: int, max_tokens: int) -> dict[str, Any]:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed % 2**SEED_BITS, "stream": False}
        return {"model": self.endpoint.model, "messages": turns, **sampling, "logprobs": self.endpoint.logprobs}

    async def _all(self, bodies: Sequence[Mapping[str, Any]], tick: Callable[[int, int], None], optional: bool) -> list[Reply]:
        gate = asyncio.Semaphore(self.endpoint.max_concurrency)
        patience = Patience(self.endpoint.patience_s, self.endpoint.retries, spent=self._down)
        tasks = [asyncio.create_task(self._one(body, gate, patience, optional)) for body in bodies]
        waiting = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, timeout=TICK_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
                tick(len(tasks) - len(waiting), len(tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        replies = [task.result() for task in tasks]
        refusals = [reply.refused for reply in replies if reply.refused]
        if refusals and not self.answered:  # not a row too long, but a model or a field that the server does not know
            raise EngineRefused(self.name, refusals[0])
        return replies

    async def _one(self, body: Mapping[str, Any], gate: asyncio.Semaphore, patience: Patience, optional: bool) -> Reply:
        """A request keeps its place while it pauses, so that a server in trouble is asked less, not more."""
        async with gate:
            attempt = 0
            while True:
                if patience.given_up:
                    return self._gone(patience.given_up, optional)
                try:
                    reply = await self._ask(body)
                except Fault as fault:
                    self.faults += 1
                    pause = patience.pause(fault, attempt)
                    if pause is None:
                        self._down = patience.given_up is not None
                        return self._gone(
                            patience.given_up or f"{attempt + 1} requests failed; the last fault: {fault}", optional
                        )
                    log.warning("engine %s: %s; asked again in %.1f s", self.name, fault, pause)
                    await asyncio.sleep(pause)
                    attempt += 1
                except RowRefused as refusal:
                    if not optional:
                        raise EngineRefused(self.name, str(refusal)) from None
                    return Reply("", None, 0, error=f"engine {self.name} refused: {refusal}", refused=str(refusal))
                else:
                    self.answered += 1
                    self._down = False
                    patience.answered()
                    return reply

    def _gone(self, why: str, optional: bool) -> Reply:
        if not optional:
            raise EngineAway(self.name, why)
        return Reply("", None, 0, error=f"engine {self.name}: {why}")

    async def _ask(self, body: Mapping[str, Any]) -> Reply:
        """Raises Fault for what may pass, RowRefused and EngineRefused for what will not."""
        if self._http is None:
            self._http = self._connect()
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                async with self._http.stream("POST", self.endpoint.completions, json=body) as response:
                    content = await self._read(response)
        except TimeoutError:
            raise Fault(f"no whole answer within {self.endpoint.timeout_s:g} s") from None
        except httpx.RequestError as problem:
            raise Fault(f"{type(problem).__name__}: {problem}"[:SHOWN]) from None
        status = response.status_code
        if status in PASSING or status >= 500:
            raise Fault(f"status {status}: {self._message(content)}", _retry_after(response.headers.get("retry-after")))
        if status in ABOUT_THE_ROW:
            raise RowRefused(f"status {status}: {self._message(content)}")
        if status != 200:
            raise EngineRefused(self.name, f"status {status}: {self._message(content)}")
        try:
            return read_reply(content, logprobs=self.endpoint.logprobs, max_tokens=body["max_tokens"])
        except NoLogprobs:
            raise EngineRefused(
                self.name,
                "its answer has no log-probs, and without them a vote has no confidence.",
                code="engine_no_logprobs",
                hint="Serve it with log-probs; or the operator sets logprobs to false, and its votes count for agreement only.",
            ) from None

    def _connect(self) -> httpx.AsyncClient:
        """No proxies or credentials from the environment, and no redirects: the operator's URL is the only one there is."""
        key = self.endpoint.api_key
        return httpx.AsyncClient(
            headers={"accept-encoding": "identity"} | ({"authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
            timeout=httpx.Timeout(None, connect=min(CONNECT_SECONDS, self.endpoint.timeout_s)),
            limits=httpx.Limits(max_connections=self.endpoint.max_concurrency),
            follow_redirects=False,
            trust_env=False,
        )

    async def _read(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MAX_REPLY_BYTES:
                raise EngineRefused(self.name, f"an answer of more than {MAX_REPLY_BYTES} bytes.")
        return bytes(content)

    def _message(self, content: bytes) -> str:
        """What the server says for itself, without our key and without control characters."""
        text = content.decode("utf-8", "replace")
        try:
            said = json.loads(text)
            inner = said.get("error", said)
            text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
        except (ValueError, AttributeError):
            pass
        if self.endpoint.api_key:
            text = text.replace(self.endpoint.api_key.get_secret_value(), "***")
        return text.translate(OUTSIDE_ASCII)[:SHOWN]


def _retry_after(value: str | None) -> float | None:
    """Seconds, from either form of the header."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

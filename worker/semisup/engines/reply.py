"""One chat completion's body as text and confidence, or the reason it is none."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Ends that are no answer: the server stopped in the middle of one.
UNFINISHED = (None, "abort", "error")
# What servers (vLLM) write for a log-prob that they do not have; no token that was sampled is as unlikely as that.
MISSING = -9999.0


@dataclass(frozen=True, slots=True)
class Reply:
    """`mean_nll` is in nats per returned token whose log-prob came (the end token counts where it did); None: not scored.

    `error` says why there is no answer at all, `refused` in the server's own words where it would not take the request; only
    an optional collaborator gets to see such a reply.
    """

    text: str
    mean_nll: float | None
    tokens: int
    error: str | None = None
    refused: str | None = None


class Fault(Exception):
    """An answer that did not come, or in part: the request may be sent again, `after` seconds if the server says how many."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


class NoLogprobs(Exception):
    """A whole answer without log-probs, from a server that was expected to give them."""


def read_reply(body: bytes, *, logprobs: bool, max_tokens: int) -> Reply:
    """The first choice of a chat completion. Raises Fault for half an answer, NoLogprobs for one that cannot be scored.

    Cut at `max_tokens` is whole, as it is for a local LM; cut earlier, the server ran out of room, and it is half.
    """
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise TypeError
        logprobs_said = _logprobs(choice.get("logprobs"))
        said = len(logprobs_said) or ((answer.get("usage") or {}).get("completion_tokens"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Fault(f"half an answer or none: {body[:80]!r}") from None
    end = choice.get("finish_reason")
    if end in UNFINISHED or (end == "length" and isinstance(said, int) and said < max_tokens):
        raise Fault(f"half an answer: it ended with finish_reason {end!r} after {said} of {max_tokens} tokens")
    if not logprobs_said and text and logprobs:
        raise NoLogprobs
    whole = text.encode("utf-8", "replace").decode().strip()  # JSON can spell half a surrogate pair; nothing can store it
    nlls = [-value for value in logprobs_said if value > MISSING]
    mean = sum(nlls) / len(nlls) if nlls and logprobs else None
    return Reply(whole, mean, said if isinstance(said, int) and said else min(1, len(whole)))  # a text was generated


def _logprobs(logprobs: Any) -> list[float]:
    """The log-prob of every returned token. Raises ValueError for a number that is none."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    values = [float(token["logprob"]) for token in content or ()]
    if not all(math.isfinite(value) for value in values):
        raise ValueError
    return values

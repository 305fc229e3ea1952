"""One chat completion's body as text and confidence, or the reason it is none."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Ends that are no answer: the server stopped in the middle of one.
UNFINISHED = (None, "abort", "error")


@dataclass(frozen=True, slots=True)
class Reply:
    """`mean_nll` is in nats per returned token (the end token counts where the server returns it); None: not scored.

    `error` says why there is no answer at all; only an optional collaborator gets to see such a reply.
    """

    text: str
    mean_nll: float | None
    tokens: int
    error: str | None = None


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
        nlls = _nlls(choice.get("logprobs"))
        said = len(nlls) or ((answer.get("usage") or {}).get("completion_tokens"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Fault(f"half an answer or none: {body[:80]!r}") from None
    end = choice.get("finish_reason")
    if end in UNFINISHED or (end == "length" and isinstance(said, int) and said < max_tokens):
        raise Fault(f"half an answer: it ended with finish_reason {end!r} after {said} of {max_tokens} tokens")
    if not nlls and text and logprobs:
        raise NoLogprobs
    whole = text.encode("utf-8", "replace").decode().strip()  # JSON can spell half a surrogate pair; nothing can store it
    mean = sum(nlls) / len(nlls) if nlls and logprobs else None
    return Reply(whole, mean, said if isinstance(said, int) else 0)


def _nlls(logprobs: Any) -> list[float]:
    """Minus the log-prob of every returned token. Raises ValueError for a number that is none."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    nlls = [-float(token["logprob"]) for token in content or ()]
    if not all(math.isfinite(nll) for nll in nlls):
        raise ValueError
    return nlls

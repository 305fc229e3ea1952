"""Chat rows: OpenAI's `messages` and ShareGPT's `conversations`. The last assistant turn is the target."""

from typing import Any

from worker.semisup.data import Message
from worker.semisup.ingest.findings import Refusal, did_you_mean
from worker.semisup.ingest.text import as_text

# What each role is called elsewhere. Tools are not roles a small fine-tuned LM is trained for here.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


def read_turns(value: Any, path: str, *, target: bool) -> tuple[tuple[Message, ...], str | None]:
    """The prompt, which ends with a user turn, and the target, if the chat ends with an assistant turn of weight 1.

    `target=False`: an answer at the end is dropped, not returned. Raises Refusal `invalid_messages`, `invalid_role`,
    `role_order`, `unsupported_content`, `empty_text`.
    """
    if not isinstance(value, list) or not value:
        raise Refusal(
            "invalid_messages",
            f"{path} is not a list of turns.",
            path=path,
            got=value,
            fix='Write [{"role": …, "content": …}].',
        )
    turns = [_turn(turn, f"{path}[{i}]") for i, turn in enumerate(value)]
    messages = [message for message, _ in turns]
    response = None
    if messages[-1].role == "assistant":
        last, weight = turns[-1]
        messages.pop()
        response = last.content if target and weight else None
    _check_order(messages, path)
    return tuple(messages), response


def _turn(turn: Any, path: str) -> tuple[Message, int]:
    if not isinstance(turn, dict):
        raise Refusal(
            "invalid_messages", f"{path} is not an object.", path=path, got=turn, fix='Write {"role": …, "content": …}.'
        )
    key = "role" if "role" in turn else "from"
    given = turn.get(key)
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        hint = did_you_mean(given, ROLES) if isinstance(given, str) else None
        raise Refusal(
            "invalid_role",
            f"{path}.{key} must be system, user or assistant.",
            path=f"{path}.{key}",
            got=given,
            fix=hint or "Use one of them.",
        )
    content = _content(turn.get("content", turn.get("value")), f"{path}.content")
    if not content and role != "system":
        raise Refusal("empty_text", f"{path}.content is empty.", path=f"{path}.content", fix="Fill it, or delete the turn.")
    weight = turn.get("weight", 1)
    if weight not in (0, 1, None) or isinstance(weight, bool):
        raise Refusal("wrong_type", f"{path}.weight must be 0 or 1.", path=f"{path}.weight", got=weight, fix="Write 0 or 1.")
    return Message(role, content), 0 if weight == 0 else 1  # type: ignore[arg-type]  # ROLES' values


def _content(value: Any, path: str) -> str:
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in value]
        if any(not isinstance(part, str) for part in parts):
            raise Refusal(
                "unsupported_content",
                f"{path} holds a part that is not text.",
                path=path,
                got=value,
                fix="Keep text parts only.",
            )
        value = "".join(part for part in parts if part)
    return as_text(value, path)


def _check_order(messages: list[Message], path: str) -> None:
    if not messages or messages[-1].role != "user":
        raise Refusal(
            "role_order",
            f"{path}: the prompt does not end with a user turn.",
            path=path,
            fix="End with user, or user and assistant.",
        )
    talk = [message.role for message in messages]
    while talk and talk[0] == "system":
        talk.pop(0)
    if talk[0] != "user" or "system" in talk:
        raise Refusal(
            "role_order", f"{path}: a system turn comes first, then a user turn.", path=path, fix="Order the turns so."
        )

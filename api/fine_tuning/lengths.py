"""Which rows are longer than the language model reads, from the words counted when their file was validated.

The front end loads no tokenizer. Words are a floor: no usual tokenizer has a token of two words, so a row with more words than
the LM reads tokens certainly loses some. Of rows that are too long by their tokens alone the runner, which has the tokenizer,
leaves out the front of the prompt; a labeled response that is too long ends the job (worker/semisup/lengths.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from api.errors import BadRequest
from api.fine_tuning.checks import Warned
from api.fine_tuning.order import Order
from models.settings import settings

BUNDLED, BUNDLED_TOKENS = "bundled:", 512  # worker/semisup/bundled.py, which this floor may not import
LEAST_PROMPT = 16  # worker/semisup/lengths.py
NO_LIMIT = 10**6  # what transformers writes for "none" is larger by far
SHOWN_LINES = 5
# Where a folder says how many tokens its LM reads, the first that does: the tokenizer's word is what the runner goes by.
PLACES = (
    ("tokenizer_config.json", "model_max_length"),
    ("config.json", "max_position_embeddings"),
    ("config.json", "n_positions"),
)


def check_lengths(order: Order, rows: Mapping[str, RowMapping]) -> list[Warned]:
    """What is to be said of rows that the LM, or the order's max_length, cuts; `rows` are the order's files by request field.

    Logs have long rows now and then: they are told, not refused. Raises BadRequest for responses that leave no room for a
    prompt.
    """
    limit, room = lm_tokens(settings().base_lms[order.model]), order.spec.hyperparameters.max_length
    cut = f"max_length, {room} tokens"
    if limit is not None:
        _check_room(order, limit)
        if limit < room:
            room, cut = limit, f"the {limit} tokens that {order.model} reads"
    warned = []
    for param, row in rows.items():
        words = row["validation"]["stats"].get("words")  # files of an earlier version have none
        if count := _over(words, room):
            named = _lines(words, room)
            message = f"'{param}': at least {_rows(count)} longer than {cut}: the front of these is left out ({named})."
            data = {"code": "truncated_tokens", "count": count, "param": param, "lines": _longer(words, room)}
            warned.append(Warned(message, data))
    return warned


def _check_room(order: Order, limit: int) -> None:
    """A response that the LM is asked for must leave some of what it reads to the prompt."""
    most = limit - LEAST_PROMPT
    for part, asked in (("propagation", order.spec.propagation), ("resolve", order.spec.resolve)):
        if asked.max_new_tokens != "auto" and asked.max_new_tokens > most:
            raise BadRequest(
                f"Responses of {asked.max_new_tokens} tokens leave no room for a prompt: {order.model} reads {limit} tokens.",
                code="cross_field",
                param=f"method.semi_supervised.{part}.max_new_tokens",
                hint=f"Set it to at most {most}, leave it to 'auto', or choose a model that reads more.",
            )


def lm_tokens(place: str) -> int | None:
    """How many tokens the LM at `place` (a value of SEMIFT_BASE_LMS) reads; None where nothing says so."""
    if place.startswith(BUNDLED):
        return BUNDLED_TOKENS
    for name, key in PLACES:
        path = Path(place, name)
        said = json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
        if isinstance(said, int | float) and 0 < said < NO_LIMIT:
            return int(said)
    return None


def _over(words: Mapping[str, Any] | None, limit: int) -> int:
    """Rows with more words than `limit`: exact for powers of two, else those over the next one, and those that are named."""
    if not words:
        return 0
    counts: list[int] = [rows for step, rows in words["over"].items() if int(step) >= limit]
    return max([len(_longer(words, limit)), *counts])


def _longer(words: Mapping[str, Any], limit: int) -> list[int]:
    return [row["line"] for row in words["longest"] if row["words"] > limit]


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


def _lines(words: Mapping[str, Any], limit: int) -> str:
    lines = _longer(words, limit)
    return f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:SHOWN_LINES]))}{' …' * (len(lines) > SHOWN_LINES)}"

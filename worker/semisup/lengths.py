"""How many tokens the LM reads at once, and labeled rows that cannot be trained on within that.

A prompt may lose its front; a response may lose nothing, or the LM would learn to break off. The front end counts words
(api/fine_tuning/lengths.py), which are a floor: here is the tokenizer.
"""

import json
from pathlib import Path
from typing import Any

from worker.semisup.errors import DataError
from worker.semisup.ingest.load import lines_of
from worker.semisup.inputs import Inputs, Source
from worker.semisup.lm import Lab

LEAST_PROMPT = 16  # tokens of a prompt that are left however long its response is
NO_LIMIT = 10**6  # what transformers writes for "none" is larger by far
SHOWN = 5
PLACES = ("max_position_embeddings", "n_positions")


def tokens_read(lab: Lab) -> int | None:
    """Prompt and response together: what the tokenizer says, else the LM's configuration; None where neither does."""
    said: list[Any] = [getattr(lab.tokenizer, "model_max_length", None)]
    config = Path(lab.base) / "config.json"
    if config.is_file():
        known = json.loads(config.read_text(encoding="utf-8"))
        said += [known.get(place) for place in PLACES]
    return next((int(limit) for limit in said if isinstance(limit, int | float) and 0 < limit < NO_LIMIT), None)


def check_responses(lab: Lab, inputs: Inputs, file: Source) -> None:
    """Raises DataError `text_too_long` for labeled rows whose response leaves no room for a prompt; `file` is where from."""
    limit = tokens_read(lab)
    if limit is None:
        return
    found = {row.id: len(lab.encode_response(row.response)) for row in inputs.split.labeled}
    over = {identity: tokens for identity, tokens in found.items() if tokens > limit - LEAST_PROMPT}
    if not over:
        return
    lines = lines_of(file.path, file.filename, file.options, over)
    named = ", ".join(f"line {line} ({over[identity]} tokens)" for identity, line in list(lines.items())[:SHOWN])
    more = f" and {len(over) - SHOWN} more" if len(over) > SHOWN else ""
    raise DataError(
        f"Responses of {file.filename} are longer than the {limit} tokens that {lab.name} reads, of which {LEAST_PROMPT} are "
        f"for the prompt: {named}{more}.",
        code="text_too_long",
        param="training_file",
        line=min(lines.values()),
        hint="Shorten or split these responses, leave the rows out, or choose a model that reads more.",
    )

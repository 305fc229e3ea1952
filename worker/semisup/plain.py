"""Text into token ids such that rows stay data: no control token ever comes out of what a row says.

A row may hold `<|im_end|>`. Encoded as it stands inside a rendered chat, that would end the turn and let the row speak as the
system. So two things are told apart before anything is encoded: the control tokens that the chat template wrote, and text.
The tokenizer used here is the base LM's with its control tokens under names that occur in no text; only the template's are
renamed with it. For texts without control tokens the ids are those of the LM's own tokenizer, to the last one.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

from worker.semisup.data import Message
from worker.semisup.errors import LmNotFound

MARK = "ꆈꌠꁱꂷ"  # no case, no decomposition, no meaning to any normalizer; lengthened while a text holds it


class PlainEncoder:
    """`tokenizer` is transformers'. Raises LmNotFound for one that is not backed by a tokenizer.json (`tokenizers`)."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise LmNotFound(
                f"The tokenizer of {name} has no tokenizer.json, so control tokens in rows could not be told from its own.",
                code="model_unsafe",
                hint="Convert it once with transformers (AutoTokenizer.from_pretrained, save_pretrained).",
            )
        self._plan = json.loads(backend.to_str())
        own = set(tokenizer.all_special_tokens)
        added = [token["content"] for token in self._plan["added_tokens"] if token["special"] or token["content"] in own]
        self.controls = tuple(sorted({*added, *own}, key=lambda text: (-len(text), text)))  # the longest match comes first
        self._found = re.compile("|".join(map(re.escape, self.controls)) or r"(?!)")
        self._heads = {text[:cut] for text in self.controls for cut in range(1, len(text))}
        self._tails = {text[cut:] for text in self.controls for cut in range(1, len(text))}
        self._longest = max(map(len, self.controls), default=0)
        self._renamed = lru_cache(maxsize=4)(self._rename)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation up to where the assistant speaks."""
        mark = _unused(message.content for message in messages)
        if not self._tokenizer.chat_template:
            text = "\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages) + "\nAssistant:"
            return self._ids(mark, text, add_special_tokens=True)
        names = {control: f"{mark}{number}{mark}" for number, control in enumerate(self.controls)}
        # Where a control token could be half the template's text and half a row's, the row is put in afterwards.
        later = any(self._touches(message.content) for message in messages)
        hidden = [self._found.sub(lambda found: _data(mark, names[found[0]]), message.content) for message in messages]
        shown = [_data(mark, f"{mark}row{place}{mark}") for place in range(len(messages))] if later else hidden
        turns = [{"role": message.role, "content": text} for message, text in zip(messages, shown, strict=True)]
        text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        text = self._found.sub(lambda found: names[found[0]], text)  # the template's own, and nobody else's
        if later:
            for place, content in zip(shown, hidden, strict=True):
                text = text.replace(place, content)
        for control, name in names.items():
            text = text.replace(_data(mark, name), control)
        return self._ids(mark, text, add_special_tokens=False)

    def text(self, text: str) -> list[int]:
        """Token ids of a text by itself, nothing before or after it."""
        return self._ids(_unused([text]), text, add_special_tokens=False)

    def _ids(self, mark: str, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._renamed(mark).encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def _touches(self, content: str) -> bool:
        """Whether the content begins or ends with a part of a control token."""
        lengths = range(1, min(self._longest, len(content) + 1))
        return any(content[-length:] in self._heads or content[:length] in self._tails for length in lengths)

    def _rename(self, mark: str) -> Tokenizer:
        """The tokenizer with other names for its control tokens, the ids the same: in the list of added tokens, and where
        the model has them among its words, which a Unigram model would find in plain text."""
        names = {control: f"{mark}{number}{mark}" for number, control in enumerate(self.controls)}
        plan = json.loads(json.dumps(self._plan))
        for token in plan["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = plan["model"]
        words = model["vocab"]
        if isinstance(words, dict):
            model["vocab"] = {names.get(word, word): place for word, place in words.items()}
        else:
            model["vocab"] = [[names.get(word, word), score] for word, score in words]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        made = Tokenizer.from_str(json.dumps(plan))
        made.no_truncation()
        made.no_padding()
        return made


def _data(mark: str, name: str) -> str:
    """What stands for a control token in a row while the template is rendered."""
    return f"{mark}data{name}"


def _unused(texts: Any) -> str:
    mark = MARK
    whole = "\n".join(chain(texts))
    while mark in whole:
        mark += MARK[0]
    return mark

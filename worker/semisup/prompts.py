"""From a query to a conversation. Demonstrations are earlier turns of it, the nearest one last unless told otherwise.

User text is placed by concatenation only: no template language ever sees it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worker.semisup.answers import LETTERS, Answers
from worker.semisup.data import Example, Message, Query, Vote

WORDS = re.compile(r"\s*\S+")


def conversation(query: Query, demonstrations: Sequence[Example] = (), system: str | None = None) -> tuple[Message, ...]:
    """The messages to answer: system turn, demonstrations as question and answer turns, then the query's own turns."""
    own_system = tuple(m for m in query.messages if m.role == "system")
    opening = own_system or ((Message("system", system),) if system else ())
    shown = tuple(
        turn
        for example in demonstrations
        for turn in (Message("user", _question(example.query)), Message("assistant", example.response))
    )
    turns = [m for m in query.messages if m.role != "system"]
    last = max(i for i, m in enumerate(turns) if m.role == "user")
    asked = (*turns[:last], Message("user", _question(query)), *turns[last + 1 :])
    return (*opening, *shown, *asked)


def justification(query: Query, votes: Sequence[Vote], answers: Answers, system: str | None = None) -> tuple[Message, ...]:
    """Self-justification (SemiEvol, collaborative learning): the question, every distinct candidate, one decision."""
    texts = dict.fromkeys(vote.response.strip() for vote in votes if vote.answer is not None)
    listed = "\n".join(f"Candidate {number}: {text}" for number, text in enumerate(texts, 1))
    form = {
        "choice": "the letter of the correct option",
        "label": f"exactly one of: {', '.join(answers.labels)}",
        "number": "one number",
        "text": "the answer",
    }[answers.kind]
    ask = (
        f"{_question(query)}\n\nThese candidate answers disagree:\n{listed}\n\n"
        f"Consider which one is right and why, then end with `Answer:` and {form}."
    )
    return conversation(Query(query.id, (*query.messages[:-1], Message("user", ask))), (), system)


def thinned(example: Example, share: float, seed: int) -> Example:
    """The example with each word of its question left out by chance `share`; one word at least stays. Options stay whole."""
    words = WORDS.findall(example.query.question)
    kept = np.random.Generator(np.random.Philox(seed)).random(len(words)) >= share
    text = "".join(word for word, keep in zip(words, kept, strict=True) if keep).strip() or example.query.question
    turns = list(example.query.messages)
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    turns[last] = Message("user", text)
    return replace(example, query=replace(example.query, messages=tuple(turns)))


def _question(query: Query) -> str:
    if not query.options:
        return query.question
    listed = "\n".join(f"{LETTERS[i]}. {option}" for i, option in enumerate(query.options))
    return f"{query.question}\n{listed}"

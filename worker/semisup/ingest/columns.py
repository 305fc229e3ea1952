"""What a row means: which columns hold the prompt, the target, the options and the id, found out or as told.

A row is labeled iff it has a target. Raises Refusal throughout: for a file when a layout is chosen, for a row when it is read.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.semisup.data import Example, Message, Query
from worker.semisup.ingest import targets
from worker.semisup.ingest.chat import read_turns
from worker.semisup.ingest.findings import IngestOptions, Refusal, did_you_mean
from worker.semisup.ingest.row import Row
from worker.semisup.ingest.text import as_text

MAX_ID_CHARS = 200  # the id is part of a key in the database
SHOWN_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a row's parts lie. `target` and `options` are alternatives, best first; a chat row's target is its last turn."""

    name: str
    input: str
    target: tuple[str, ...] = ()
    options: tuple[str, ...] = ("options", "choices")
    id: tuple[str, ...] = ("id", "uid", "custom_id")
    context: str | None = None  # alpaca's second half of the prompt


# In order: a file is the first whose input column it has. What is not named is ignored, so SemiEvol's `gt` never is a target.
LAYOUTS = (
    Layout("chat", "messages"),
    Layout("sharegpt", "conversations"),
    Layout("request_log", "request"),
    Layout("batch_log", "body"),
    Layout("alpaca", "instruction", ("output", "response"), context="input"),
    Layout("prompt_completion", "prompt", ("completion", "response")),
    Layout("question_answer", "question", ("answer",)),
    Layout("text_label", "text", ("label", "category", "intent")),
)
TARGETS = tuple(dict.fromkeys(name for layout in LAYOUTS for name in layout.target))


@dataclass(frozen=True, slots=True)
class Mapped:
    """A row with its meaning. `response` and `answer` are None in an unlabeled row."""

    line: int
    values: Mapping[str, Any]
    query: Query
    response: str | None
    answer: str | None

    @property
    def example(self) -> Example:
        if self.response is None or self.answer is None:
            raise ValueError(f"row {self.query.id} has no target")
        return Example(self.query, self.response, self.answer)

    @property
    def target_text(self) -> str | None:
        """What the answer says: a letter's option, else the answer itself."""
        return self.answer if not self.query.options or self.answer is None else self.query.options[ord(self.answer) - ord("A")]


def choose_layout(columns: Iterable[str], options: IngestOptions, *, complete: bool) -> Layout:
    """`complete`: `columns` are all there will be (a header), so a mapped column that is not among them is a mistake.

    Header names match whatever their case. Raises Refusal `missing_column` with the columns found.
    """
    found = {name.casefold(): name for name in reversed(tuple(columns))}
    told = options.mapping

    def resolve(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(found.get(name.casefold(), name) for name in names)

    def wanted(key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        if key not in told:
            return resolve(default)
        name = told[key]
        spared = key == "target" and options.role == "unlabeled"  # one mapping may serve the labeled and the unlabeled file
        if name is not None and complete and name.casefold() not in found and not spared:
            raise _missing(f"No column {name!r} (mapped as {key}).", name, found.values())
        return () if name is None else resolve((name,))

    base = next((layout for layout in LAYOUTS if layout.input in found), None)
    given = told.get("input")
    if given is not None:
        if given.casefold() not in found:
            raise _missing(f"No column {given!r} (mapped as input).", given, found.values())
        if base is None or base.input != given.casefold():
            base = Layout("mapped", given, base.target if base else TARGETS)
    if base is None:
        names = tuple(layout.input for layout in LAYOUTS)
        near = next((hint for name in found if (hint := did_you_mean(name, names))), None)
        raise _missing("No column holds the prompt.", "", found.values(), near or f"Name it {', '.join(names)}, or map it.")
    context = found.get(base.context) if base.context else None
    return replace(
        base,
        input=found[base.input.casefold()],
        target=wanted("target", base.target),
        options=wanted("options", base.options),
        id=wanted("id", base.id),
        context=context,
    )


def _missing(message: str, wanted: str, found: Iterable[str], hint: str | None = None) -> Refusal:
    names = list(found)
    columns = ", ".join(repr(name[:80]) for name in names[:SHOWN_COLUMNS]) or "none"
    fix = hint or did_you_mean(wanted, names) or "Map one of the columns found."
    return Refusal("missing_column", f"{message} Columns found: {columns}.", line=1, path=wanted or None, fix=fix)


def id_column(layout: Layout, first: Mapping[str, Any]) -> str | None:
    """The id column of a file, decided by its first row: a file's ids are all given or all made, so they never collide."""
    return next((name for name in layout.id if first.get(name) not in (None, "")), None)


def map_row(row: Row, layout: Layout, ids: str | None, options: IngestOptions, prefix: str) -> Mapped:
    """Raises Refusal for a row that cannot be used."""
    values = row.values
    if layout.input not in values:
        raise Refusal(
            "missing_key", f"the row has no {layout.input!r}.", path=layout.input, fix="Give every row the same columns."
        )
    messages, response = _prompt(values, layout)
    target_column = next((name for name in layout.target if values.get(name) is not None), None)
    if target_column is not None and options.role != "unlabeled":
        response = as_text(values[target_column], target_column) or response
    elif target_column is not None:
        response = targets.lenient(values[target_column]) or response
    option_column = next((name for name in layout.options if values.get(name) not in (None, "")), None)
    texts = targets.parse_options(values[option_column], option_column) if option_column else ()
    query = Query(_id(row, ids, prefix), messages, texts)
    path = target_column or layout.input
    if not response:
        if options.role == "labeled":
            raise Refusal(
                "bad_label", "the labeled row has no target.", path=path, fix="Give it one, or move it to the unlabeled file."
            )
        return Mapped(row.line, values, query, None, None)
    try:
        answer = targets.canonical(response, texts, options.labels, path)
    except Refusal:
        if options.role != "unlabeled":
            raise
        return Mapped(row.line, values, query, None, None)  # a gold answer nobody can compare with is no gold answer
    return Mapped(row.line, values, query, answer if texts else response, answer)


def _id(row: Row, column: str | None, prefix: str) -> str:
    if column is None:
        return f"{prefix}-{row.line:06d}"
    given = as_text(row.values.get(column), column)
    if not given:
        raise Refusal(
            "missing_id", "the row has no id, but the first row has.", path=column, fix="Give all rows an id, or none."
        )
    if len(given) > MAX_ID_CHARS:
        raise Refusal(
            "id_too_long", f"the id has more than {MAX_ID_CHARS} characters.", path=column, got=given, fix="Shorten it."
        )
    return f"{prefix}-{given}"


def _prompt(values: Mapping[str, Any], layout: Layout) -> tuple[tuple[Message, ...], str | None]:
    value, path = values[layout.input], layout.input
    if isinstance(value, str) and layout.name in ("chat", "sharegpt") and value.lstrip().startswith("["):
        try:
            value = json.loads(value)  # a chat in a CSV cell
        except ValueError:
            raise Refusal(
                "invalid_json", f"{path} is not a JSON list.", path=path, got=value, fix="Write the chat as JSON."
            ) from None
    if isinstance(value, dict) and layout.name in ("request_log", "batch_log"):
        # A log's response is what some LM said, not a label: it is left out.
        return read_turns(value.get("messages"), f"{path}.messages", target=False)
    if isinstance(value, list):
        return read_turns(value, path, target=True)
    text = as_text(value, path)
    if not text:
        raise Refusal("empty_text", f"{path} is empty.", path=path, fix="Fill it, or delete the row.")
    if layout.context and (context := as_text(values.get(layout.context), layout.context)):
        text = f"{text}\n\n{context}"
    return (Message("user", text),), None

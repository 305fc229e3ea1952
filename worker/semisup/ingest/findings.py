"""What reading a file can say about it, and what an uploader may say beforehand."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.semisup.errors import SpecError

Format = Literal["jsonl", "csv", "tsv", "parquet"]
Role = Literal["labeled", "unlabeled"]
MAPPING_KEYS = ("input", "target", "options", "id")
MAX_GOT_CHARS = 200  # nothing echoes more of a user's data than this


class Finding(BaseModel):
    """One thing worth telling about a file. Lines count from 1, the header included; in Parquet they count rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    message: str
    severity: Literal["error", "warning"] = "error"
    line: int | None = None
    lines: tuple[int, ...] = Field((), description="All lines concerned, where there is more than one.")
    column: int | None = Field(None, description="Character in the line, from 1.")
    byte: int | None = Field(None, description="Offset in the file, from 0.")
    path: str | None = Field(None, description="Column name, or dotted path inside the row.")
    got: str | None = None
    fix: str | None = None
    count: int | None = None
    pairs: tuple[tuple[str, str], ...] = Field((), description="Row ids of two files that belong together; at most 5.")


class Refusal(Exception):
    """Control flow inside ingest: the row (from a reader: the rest of the file) cannot be used. Never leaves the package."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        got = details.pop("got", None)
        self.finding = Finding(code=code, message=message, got=None if got is None else shown(got), **details)


class IngestOptions(BaseModel):
    """What the uploader says about a file (`dataset` in an upload). Everything left out is found out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["auto", "jsonl", "csv", "tsv", "parquet"] = "auto"
    mapping: dict[str, str | None] = Field({}, description="Column of input, target, options, id; null: there is none.")
    labels: tuple[str, ...] | None = Field(None, min_length=1, description="The closed set a target must be in.")
    role: Role | None = Field(None, description="labeled: a row without a target is an error. unlabeled: targets are ignored.")

    @classmethod
    def of(cls, given: "Mapping[str, Any] | IngestOptions | None") -> Self:
        """Raises SpecError `unknown_field`, `unknown_choice` or `invalid_value`, with param `dataset.…`."""
        if isinstance(given, cls):
            return given
        try:
            options = cls.model_validate(dict(given or {}))
        except ValidationError as error:
            raise _option_error(error) from None
        mapping = {("options" if key == "choices" else key): name for key, name in options.mapping.items()}
        for key in mapping:
            if key not in MAPPING_KEYS:
                raise SpecError(
                    f"A mapping has no key {shown(key)!r}; its keys are {', '.join(MAPPING_KEYS)}.",
                    code="unknown_field",
                    param=f"dataset.mapping.{shown(key)}",
                    hint=did_you_mean(key, MAPPING_KEYS) or f"Use one of {', '.join(MAPPING_KEYS)}.",
                )
        return options.model_copy(update={"mapping": mapping})


def _option_error(error: ValidationError) -> SpecError:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    code = {"extra_forbidden": "unknown_field", "literal_error": "unknown_choice"}.get(first["type"], "invalid_value")
    known = ", ".join(IngestOptions.model_fields)
    message = (
        f"dataset has no field {name!r}; its fields are {known}."
        if code == "unknown_field"
        else f"dataset.{name}: {first['msg']}."
    )
    hint = did_you_mean(name, IngestOptions.model_fields) if code == "unknown_field" else None
    return SpecError(message, code=code, param=f"dataset.{name}", hint=hint or "Correct it, or leave it out.")


def shown(value: object) -> str:
    """A value as an error may repeat it."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_GOT_CHARS else text[: MAX_GOT_CHARS - 1] + "…"


def did_you_mean(given: str, known: Iterable[str]) -> str | None:
    names = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(given.casefold(), list(names), n=1, cutoff=0.6)
    return f"Did you mean {names[close[0]]!r}?" if close else None

"""A task is a small YAML file: which rows, how many of them, what an answer is. A new CSV is a new task without code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.quality.errors import BenchError

HERE = Path(__file__).parent / "tasks"
PROJECT = Path(__file__).parents[2]
Role = Literal["train", "labeled", "unlabeled", "test"]
Column = str | int  # a column's name, or its position where rows are lists


class Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Columns(Closed):
    """`answer` may be absent in an unlabeled source; `options` holds a JSON list of texts."""

    question: Column
    answer: Column | None = None
    options: Column | None = None


class Source(Closed):
    """A file of rows. `train`: labeled, unlabeled and validation rows are drawn from it; `labeled`: every row is labeled."""

    file: str
    role: Role
    at: str | None = Field(None, description="JSON files: dotted path to the list of rows.")
    columns: Columns | None = Field(None, description="Where this file's columns differ from the task's.")


class Labels(Closed):
    """How many rows of `train` are labeled: so many of each answer, or so many in all."""

    per_class: int | None = Field(None, ge=1)
    rows: int | None = Field(None, ge=2)

    @model_validator(mode="after")
    def _one(self) -> "Labels":
        if (self.per_class is None) == (self.rows is None):
            raise ValueError("give either per_class or rows")
        return self


class TaskFile(Closed):
    """One task. Sizes: null means all there is; the test sample is the same for every seed."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")
    title: str
    note: str = ""
    optional: bool = Field(False, description="Runs only when named by --tasks.")
    same_draw_as: str | None = Field(None, description="A task beside it: its shuffles, and its fields where none is given.")
    root: Literal["data", "project"] = Field("data", description="Files lie under --data, or in this repository.")
    sources: tuple[Source, ...]
    columns: Columns
    answers: tuple[str, ...] | None = Field(None, description="Only rows with one of these answers.")
    where: Mapping[Column, tuple[str, ...]] = Field({}, description="Only rows whose column holds one of these values.")
    labeled: Labels | None = None
    unlabeled: int | None = Field(None, ge=1)
    test: int | None = Field(400, ge=1)
    validation: int = Field(100, ge=0)
    validation_from: Literal["train", "test"] = Field("train", description="Rows left over in train, or test rows set apart.")
    answer: Literal["label", "choice"]
    spec: Mapping[str, Any] = Field({}, description="Job spec fields that this task needs.")

    @property
    def dataset(self) -> str:
        """The folder of its files, or where they lie in none the files: tasks that share it are drawn from the same rows."""
        return " + ".join(sorted({Path(source.file).parent.name or source.file for source in self.sources}))

    @model_validator(mode="after")
    def _sources(self) -> "TaskFile":
        roles = {source.role for source in self.sources}
        if self.labeled is not None and "train" not in roles:
            raise ValueError("labeled has a size, but no source has the role train to draw from")
        if self.labeled is None and not roles & {"labeled"}:
            raise ValueError("labeled needs a size, or a source with the role labeled")
        if "test" not in roles:
            raise ValueError("no source has the role test")
        return self


def load_task(path: Path) -> TaskFile:
    """Raises BenchError naming the file and the field."""
    try:
        return TaskFile.model_validate(_with_those_of_the_other(path, _read(path)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BenchError(f"{path.name}: {where}: {first['msg']}. See benchmarks/quality/tasks.py for the fields.") from error


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BenchError(f"{path.name} cannot be read as YAML: {error}") from error


def _with_those_of_the_other(path: Path, given: Any) -> Any:
    """The fields of the task named by `same_draw_as`, with those of this file laid upon them; its note stays its own."""
    name = given.get("same_draw_as") if isinstance(given, dict) else None
    if not isinstance(name, str):
        return given
    beside = path.with_name(f"{name}.yaml")
    if beside == path or not beside.is_file():
        raise BenchError(f"{path.name}: same_draw_as: there is no other task {name} beside it; name one of its folder.")
    other = _read(beside)
    if not isinstance(other, dict) or "same_draw_as" in other:
        raise BenchError(f"{path.name}: same_draw_as: {name} has no draw of its own; name a task that has.")
    return {field: value for field, value in other.items() if field not in ("note", "optional")} | given


def find_tasks(names: str | None, folder: Path = HERE) -> list[TaskFile]:
    """The named tasks (comma-separated names, or paths of task files), or all that are not optional."""
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if names is None:
        return [task for task in map(load_task, known.values()) if not task.optional]
    found = []
    for name in names.split(","):
        path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
        if path is None:
            raise BenchError(f"No task is called {name}; there are {', '.join(known)}. A path to a task file works too.")
        found.append(load_task(path))
    return found

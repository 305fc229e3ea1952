"""What is compared: arms.yaml as frozen values, and the job spec that an arm means for a task and a seed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from benchmarks.quality.errors import BenchError
from benchmarks.quality.tasks import Closed, TaskFile
from worker.semisup.answers import Answers
from worker.semisup.automatic import settle
from worker.semisup.errors import SpecError
from worker.semisup.spec import JobSpec, load_spec

HERE = Path(__file__).parent / "arms.yaml"
Kind = Literal["cheap", "vanilla", "early", "matched", "gold", "job"]


class Arm(Closed):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]{0,47}$")
    title: str
    group: Literal["no LM", "labels only", "semi-supervised", "ablation", "ceiling", "ratio", "rounds"]
    kind: Kind
    priority: int
    quick: bool = False
    function: str | None = None
    of: str | None = None
    spec: Mapping[str, Any] = {}
    epochs: int | None = Field(None, ge=1)
    same_size_as: str | None = None
    unlabeled_ratio: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _parts(self) -> "Arm":
        needed = {"cheap": "function", "early": "of", "matched": "of", "gold": "epochs"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"{self.name}: an arm of kind {self.kind} needs {needed}")
        return self


class Arms(Closed):
    """`ours` is judged against `control`; `ceiling` is what there is to win."""

    common: Mapping[str, Any] = {}
    control: str
    ours: str
    ceiling: str
    arms: tuple[Arm, ...]

    @model_validator(mode="after")
    def _names(self) -> "Arms":
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"two arms share a name: {sorted(n for n in names if names.count(n) > 1)[0]}")
        for arm in self.arms:
            for wanted in (arm.of, arm.same_size_as):
                if wanted is not None and self[wanted].kind != "job":
                    raise ValueError(f"{arm.name}: {wanted} is not an arm of kind job")
        for name in (self.control, self.ours, self.ceiling):
            self[name]
        return self

    def __getitem__(self, name: str) -> Arm:
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise ValueError(f"no arm is called {name}; there are {', '.join(arm.name for arm in self.arms)}")

    def pick(self, names: str | None, *, quick: bool = False) -> list[Arm]:
        """The named arms (comma-separated), or all, in the order in which they run. Raises BenchError."""
        try:
            found = [self[name] for name in names.split(",")] if names else [a for a in self.arms if a.quick or not quick]
        except ValueError as error:
            raise BenchError(str(error)) from error
        return sorted(found, key=lambda arm: arm.priority)

    def spec(self, arm: Arm, task: TaskFile, seed: int) -> JobSpec:
        """common, then the task's, then the arm's own fields, with nothing left to "auto". Raises BenchError.

        An arm `of` another one changes that arm's settled spec: what it switches off takes no other default along.
        """
        given: Mapping[str, Any] = {"answer": {"kind": task.answer}}
        for layer in (self.common, task.spec, *([self[arm.of].spec] if arm.of else []), {"seed": seed}):
            given = laid_upon(given, layer)
        try:
            if arm.of:
                given = settle(load_spec(given), Answers(task.answer)).model_dump(mode="json")
            return settle(load_spec(laid_upon(given, arm.spec)), Answers(task.answer))
        except SpecError as error:
            raise BenchError(f"Arm {arm.name} on task {task.name} is no valid job spec: {error}") from error


def laid_upon(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on `under`, block by block. A block of another `strategy` or `kind` replaces the one below; so does a list."""
    out = dict(under)
    for key, value in over.items():
        below = out.get(key)
        merges = isinstance(below, Mapping) and isinstance(value, Mapping)
        if merges and all(value.get(tag, below.get(tag)) == below.get(tag) for tag in ("strategy", "kind")):  # type: ignore[union-attr]
            out[key] = laid_upon(below, value)  # type: ignore[arg-type]
        else:
            out[key] = value
    return out


def load_arms(path: Path | None = None) -> Arms:
    """Those of arms.yaml, or of another such file. Raises BenchError naming the field."""
    path = path or HERE
    try:
        return Arms.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BenchError(f"{path.name}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error
    except (OSError, yaml.YAMLError) as error:
        raise BenchError(f"{path.name} cannot be read as YAML: {error}") from error

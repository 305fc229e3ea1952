"""What a job's collaborators may call besides its own LM: other base LMs, fine-tuned adapters, engines; by name only.

A service writes it into the runner's order, a command line reads it from a file; both have this shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.semisup.data import Adapter
from worker.semisup.engines.client import Engine
from worker.semisup.engines.endpoint import Endpoint
from worker.semisup.errors import EngineNotFound, LmNotFound, SemisupError, SpecError

T = TypeVar("T")


class Learned(BaseModel):
    """A file of labeled rows that an adapter was trained on; `filename` where it lies under another name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    filename: str = ""
    options: dict[str, Any] | None = None


class Tuned(BaseModel):
    """A fine-tuned adapter, or whole weights, in a folder; `base` is one of the names in `lms`, or the job's own base.

    `learned`: what it was trained on, so that rows which it answers from memory calibrate nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    path: str
    kind: Literal["lora", "full"] = "lora"
    sha256: str = ""
    learned: tuple[Learned, ...] = ()

    def reference(self) -> Adapter:
        return Adapter(self.path, self.kind, self.sha256 or self.path, steps=0, trained_tokens=0, final_loss=0.0)


class Places(BaseModel):
    """How `Outside` is written down."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    lms: Mapping[str, str] = {}  # name -> folder, or a bundled one
    adapters: Mapping[str, Tuned] = {}
    engines: Mapping[str, Endpoint] = {}


@dataclass(frozen=True)
class Outside:
    """Use it as a context: engines hold connections."""

    lms: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, Tuned] = field(default_factory=dict)
    engines: Mapping[str, Engine] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's votes depend on of all this, as plain JSON: no address of a server, and no key."""
        return {
            "lms": dict(self.lms),
            "adapters": {
                name: tuned.model_dump(exclude=None if tuned.learned else {"learned"}) for name, tuned in self.adapters.items()
            },
            "engines": {name: engine.endpoint.model for name, engine in self.engines.items()},
        }

    def lm(self, name: str) -> str:
        """Where the base LM lies. Raises LmNotFound."""
        return _named(self.lms, name, "language model", LmNotFound)

    def adapter(self, name: str) -> Tuned:
        """Raises LmNotFound."""
        return _named(self.adapters, name, "adapter", LmNotFound)

    def engine(self, name: str) -> Engine:
        """Raises EngineNotFound."""
        return _named(self.engines, name, "engine", EngineNotFound)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self.engines.values():
            engine.close()


def open_outside(given: Mapping[str, Any]) -> Outside:
    """From plain JSON or YAML. Raises SpecError naming the first wrong field; what stands in a field is never echoed."""
    try:
        places = Places.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{path}: {first['msg']}", param=path) from None
    engines = {name: Engine(name, endpoint) for name, endpoint in places.engines.items()}
    return Outside(places.lms, places.adapters, engines)


def _named(known: Mapping[str, T], name: str, noun: str, error: type[SemisupError]) -> T:
    if name not in known:
        here = ", ".join(sorted(known)) or "none"
        raise error(f"There is no {noun} {name!r} here; there is: {here}.", param="propagation.collaborators")
    return known[name]

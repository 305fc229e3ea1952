"""The whole resume story. `keep(name, make)` makes a stage's output once; the second time it is read back.

Nothing else in the algorithm knows about resume, progress, cancel or heartbeats. Payload first, manifest last: a manifest's
existence means the output is complete. `MemoryKeep` serves tests, `DirectoryKeep` the command line, `worker.keep` the service.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")


class Keep(Protocol):
    def __call__(self, name: str, make: Callable[[], T]) -> T:
        """The stored output of stage `name`, or `make()` stored under it. Raises Stopped when the run shall end."""
        ...

    def map(self, name: str, items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[T]]) -> tuple[T, ...]:
        """`work` over `items` in chunks of `chunk_size`, each chunk stored on its own (and open to other machines).

        `work` must give one output per item, in order, and depend on nothing but its chunk and finished stages.
        """
        ...

    def within(self, prefix: str) -> "Keep":
        """The same keep, with `prefix/` before every stage name."""
        ...

    def tick(self, step: int, total: int, **metrics: float) -> None:
        """Progress inside the current stage (a training step, a batch). Raises Stopped when the run shall end."""
        ...

    def seconds(self) -> dict[str, float]:
        """Wall seconds each stage took when it was made (not when it was read back), by full stage name."""
        ...

"""What is done when something does not fit into memory: half of it at a time, down to one row, and then a clear error."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from worker.semisup.errors import OutOfMemory
from worker.semisup.shelf import Shelf

T = TypeVar("T")
Item = TypeVar("Item")
CPU_WORDS = ("can't allocate memory", "not enough memory")  # how torch's CPU allocator says it, in a plain RuntimeError


def is_out_of_memory(problem: BaseException) -> bool:
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in CPU_WORDS)


def free() -> None:
    """Gives back what the failed try had. Called outside of the except block, whose traceback still holds its tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Batches:
    """How many rows go through a network at once: `most`, or fewer since more did not fit. `notes` is for the report."""

    def __init__(self, most: int, shelf: Shelf) -> None:
        self.most, self._shelf = most, shelf
        self.notes: list[str] = []

    def of(self, items: Sequence[Item], work: Callable[[Sequence[Item]], T]) -> Iterator[tuple[Sequence[Item], T]]:
        """(part, work(part)) for all of `items` in order. Raises OutOfMemory when a single row does not fit."""
        start = 0
        while start < len(items):
            part = items[start : start + self.most]
            self._shelf.alive("batch")
            try:
                made = work(part)
            except Exception as problem:
                if not is_out_of_memory(problem):
                    raise
                if len(part) == 1:
                    raise OutOfMemory("a generation batch of one row", self._shelf.stage) from None
            else:
                yield part, made
                start += len(part)
                continue
            free()
            self._halve(len(part))

    def _halve(self, tried: int) -> None:
        self.most = max(1, tried // 2)
        told = f"{self._shelf.stage}: {tried} rows at once did not fit into memory; {self.most} from here on."
        self.notes.append(told)
        self._shelf.note(told, "batch_halved")

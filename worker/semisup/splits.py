"""Labeled rows cut into parts: held out, dev, validation, folds. Pure functions of the rows and a seed.

Rows that ask the same (`row_key`) always go the same way, whatever they answer: a row whose copy was trained on measures
memory. They count as one row, with the answer of the first.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from worker.semisup.data import Example
from worker.semisup.ingest.text import row_key

Parts = tuple[tuple[Example, ...], tuple[Example, ...]]  # (rest, drawn), both in file order
Folds = tuple[tuple[int, ...], ...]  # indices of rows


def stratified_split(examples: Sequence[Example], fraction: float, seed: int) -> Parts:
    """`fraction` of each answer's examples drawn, at least one in all and at least one left of each answer."""
    generator = np.random.Generator(np.random.Philox(seed))
    first = first_alike(examples)
    groups = _by_answer(examples, first)
    drawn: set[int] = set()
    spare = 0.0
    for members in groups:
        spare += fraction * len(members)
        count = min(len(members) - 1, int(spare))
        spare -= count
        drawn.update(members[i] for i in generator.permutation(len(members))[:count])
    if not drawn:  # every answer occurs once: any example may go
        unique = sorted(set(first))
        drawn.update(unique[i] for i in generator.permutation(len(unique))[: max(1, round(fraction * len(unique)))])
    return _parted(examples, first, drawn)


def systematic_split(examples: Sequence[Example], fraction: float, seed: int) -> Parts:
    """`fraction` of the examples drawn, and of each answer's to within one: any answer's last one may be drawn.

    A systematic sample of the shuffled rows sorted by answer.
    """
    first = first_alike(examples)
    unique = sorted(set(first))
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(unique))
    rows = [i for members in _by_answer(examples, [unique[place] for place in order]) for i in members]
    drawn = {row for place, row in enumerate(rows) if int((place + 1) * fraction) > int(place * fraction)}
    return _parted(examples, first, drawn)


def stratified_folds(examples: Sequence[Example], count: int, seed: int) -> Folds:
    """Every row in one fold; each answer's rows spread evenly, and the folds, `count` at most, of nearly equal size."""
    generator = np.random.Generator(np.random.Philox(seed))
    first = first_alike(examples)
    count = min(count, len(set(first)))
    fold_of: dict[int, int] = {}
    for members in _by_answer(examples, first):
        for place in generator.permutation(len(members)):
            fold_of[members[int(place)]] = len(fold_of) % count
    return tuple(tuple(i for i, alike in enumerate(first) if fold_of[alike] == fold) for fold in range(count))


def first_alike(examples: Sequence[Example]) -> list[int]:
    """For every row, the index of the first row that asks the same: its own, where no earlier one does."""
    seen: dict[bytes, int] = {}
    return [seen.setdefault(row_key(example.query), index) for index, example in enumerate(examples)]


def _by_answer(examples: Sequence[Example], rows: Iterable[int]) -> list[list[int]]:
    """The rows, each once, grouped by answer; groups and their members in the order given."""
    groups: dict[str, list[int]] = {}
    for index in dict.fromkeys(rows):
        groups.setdefault(examples[index].answer, []).append(index)
    return list(groups.values())


def _parted(examples: Sequence[Example], first: Sequence[int], drawn: set[int]) -> Parts:
    inside = [alike in drawn for alike in first]
    rest = tuple(e for e, is_in in zip(examples, inside, strict=True) if not is_in)
    return rest, tuple(e for e, is_in in zip(examples, inside, strict=True) if is_in)

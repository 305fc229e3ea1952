"""Who answers which unlabeled row: a network that was not trained on it.

The first round's teacher, the warm-up, has seen labels alone. The adapter that a round has evolved has learned that round's
rows by heart: asked again, it repeats their pseudo-labels, right or wrong, and surely. So later rounds are cross-fitted, as
the pool's weights are (calibrate.py): each half of the rows is answered by a training on the labels and the other half.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from worker.semisup.data import Adapter, Example, Neighbours, Sample
from worker.semisup.keep import Keep
from worker.semisup.seeds import derive_seed
from worker.semisup.splits import stratified_folds
from worker.semisup.stages.recipe import FORMS
from worker.semisup.stages.train import evolve
from worker.semisup.task import Task

FOLDS = 2

Row = TypeVar("Row")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Teachers:
    """`fold_of`: query id -> index in `adapters`; rows that are not in it have the first. None: the base LM.

    `in_context`: whether neighbours are shown to them where the spec shows neighbours.
    """

    adapters: tuple[Adapter | None, ...]
    fold_of: Mapping[str, int] = field(default_factory=dict)
    in_context: bool = True

    @property
    def cross_fit(self) -> tuple[Adapter, ...]:
        """Those that were trained to be asked, and for nothing else."""
        return tuple(adapter for adapter in self.adapters if adapter) if self.fold_of else ()

    def each(
        self, rows: Sequence[Row], id_of: Callable[[Row], str], ask: Callable[[Adapter | None, Sequence[Row]], Sequence[Output]]
    ) -> list[Output]:
        """What `ask` gets for every row from its own teacher, one output per row, in order."""
        made: dict[int, Output] = {}
        for fold, adapter in enumerate(self.adapters):
            places = [i for i, row in enumerate(rows) if self.fold_of.get(id_of(row), 0) == fold]
            if places:
                made |= zip(places, ask(adapter, [rows[i] for i in places]), strict=True)
        return [made[i] for i in range(len(rows))]


def cross_fitted(
    task: Task,
    samples: Sequence[Sample],
    otherwise: Teachers,
    start: Adapter | None,
    neighbours: Neighbours,
    keep: Keep,
    seed: int,
) -> Teachers:
    """Teachers for the rows of `samples`, trained on their pseudo-labels as evolve is; `otherwise` where those are too few.

    They are asked in the form that they were trained in: one that was evolved on plain prompts answers worse with neighbours
    shown (docs/LOG.md). Rows that ask the same are in the same half, and each pseudo-label is spread over both.
    """
    queries = {query.id: query for query in task.split.unlabeled}
    rows = [Example(queries[s.query_id], s.pseudo_response, s.pseudo_label or "") for s in samples]
    folds = stratified_folds(rows, FOLDS, derive_seed(seed, "cross-fit"))
    if len(folds) < FOLDS:
        return otherwise
    fold_of = {samples[i].query_id: number for number, fold in enumerate(folds) for i in fold}

    def trained_without(number: int) -> Adapter:
        others = [s for s in samples if fold_of[s.query_id] != number]
        return evolve(task, start, others, task.split.unlabeled, neighbours, derive_seed(seed, "cross-fit", number))

    adapters = [keep(f"cross-fit/fold-{number}/evolve", partial(trained_without, number)) for number in range(FOLDS)]
    return Teachers(tuple(adapters), fold_of, in_context=any(FORMS[task.recipe("evolve", len(samples)).format]))

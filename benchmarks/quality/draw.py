"""One seed's draw of a task: labeled, unlabeled, validation and test rows, and the gold answers that only scores may read."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.quality.errors import BenchError
from benchmarks.quality.rows import Loaded, Row
from benchmarks.quality.tasks import TaskFile
from worker.semisup.data import Example, Message, Query, Split
from worker.semisup.keep import canonical_json
from worker.semisup.seeds import derive_seed

TEST_SEED = 20_241  # the test sample is the same for every seed, so that seeds are paired on the same rows


@dataclass(frozen=True)
class Draw:
    """`gold` maps ids of unlabeled rows to their answers (empty where the file has none). `data`, `labels`: sha256.

    `dev`: its test rows are training rows.
    """

    split: Split
    gold: Mapping[str, str]
    data: str
    labels: str
    dev: bool = False

    def with_pool(self, size: int) -> "Draw":
        """The same draw with the first `size` rows of its shuffled pool: pools of growing size are nested."""
        if size > len(self.split.unlabeled):
            raise BenchError(f"The pool holds {len(self.split.unlabeled)} rows, fewer than the {size} asked for.")
        split = replace(self.split, unlabeled=self.split.unlabeled[:size])
        return _hashed(split, {query.id: self.gold[query.id] for query in split.unlabeled if query.id in self.gold}, self.dev)

    def with_gold(self) -> "Draw":
        """The ceiling's view: every unlabeled row with its gold answer, as a labeled row."""
        if len(self.gold) < len(self.split.unlabeled):
            raise BenchError("The unlabeled rows carry no gold answers, so there is no ceiling to train.")
        answered = tuple(Example(q, self.gold[q.id], self.gold[q.id]) for q in self.split.unlabeled)
        return _hashed(replace(self.split, labeled=(*self.split.labeled, *answered), unlabeled=()), {}, self.dev)


def draw(task: TaskFile, rows: Loaded, seed: int, *, dev: bool = False) -> Draw:
    """The draw of `seed`. `dev`: test rows are training rows that were left over, and the test file is not looked at.

    A test row whose text is in the training files too is dropped from test. Raises BenchError where rows do not suffice.
    """
    shuffled_as = task.same_draw_as or task.name
    generator = random.Random(derive_seed(seed, "draw", shuffled_as))
    train = list(rows.get("train", ()))
    generator.shuffle(train)
    labeled = list(rows.get("labeled", ()))
    if task.labeled is not None:
        drawn, train = _labeled(task, train)
        labeled += drawn
    pool = [*rows.get("unlabeled", ()), *train]
    if rows.get("unlabeled"):
        generator.shuffle(pool)
    known = {row.key for row in labeled}
    once: dict[tuple[str, ...], Row] = {}  # a text of both an unlabeled and a train file must not be validated on as well
    for row in pool:
        if row.key not in known:
            once.setdefault(row.key, row)
    pool = list(once.values())
    spare = (task.test or 0) + task.validation if dev else 0
    size = max(0, len(pool) - spare) if task.unlabeled is None else task.unlabeled
    if size > len(pool):
        raise BenchError(f"Task {task.name} wants {size} unlabeled rows, but {len(pool)} are left after the labeled ones.")
    unlabeled, rest = pool[:size], [row for row in pool[size:] if row.answer is not None]
    seen = {row.key for role in ("train", "labeled", "unlabeled") for row in rows.get(role, ())}
    if dev:
        test, rest = (rest[: task.test], rest[task.test :]) if task.test else (rest, [])
        validation: Sequence[Row] = rest[: task.validation]
    else:
        test = [row for row in rows["test"] if row.key not in seen]
        random.Random(derive_seed(TEST_SEED, shuffled_as)).shuffle(test)
        if task.validation_from == "test":
            validation, test = test[: task.validation], test[task.validation :]
        else:
            validation = rest[: task.validation]
        test = test[: task.test]
    if not test:
        raise BenchError(f"Task {task.name} has no rows left to test on{' on its training side' if dev else ''}.")
    split = Split(_examples(labeled), tuple(map(_query, unlabeled)), _examples(test), _examples(validation))
    return _hashed(split, {row.id: row.answer for row in unlabeled if row.answer is not None}, dev)


def _labeled(task: TaskFile, train: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(labeled, rest) of shuffled rows."""
    assert task.labeled is not None
    if task.labeled.rows is not None:
        if task.labeled.rows > len(train):
            raise BenchError(f"Task {task.name} wants {task.labeled.rows} labeled rows; its train files hold {len(train)}.")
        return list(train[: task.labeled.rows]), list(train[task.labeled.rows :])
    wanted, taken = task.labeled.per_class or 0, dict.fromkeys((row.answer for row in train), 0)
    chosen: list[Row] = []
    rest: list[Row] = []
    for row in train:
        (chosen if taken[row.answer] < wanted else rest).append(row)
        taken[row.answer] += 1
    short = [str(answer) for answer, count in taken.items() if count < wanted]
    if short:
        raise BenchError(f"Task {task.name} wants {wanted} labeled rows of each answer; too few of {', '.join(short[:5])}.")
    return chosen, rest


def _query(row: Row) -> Query:
    return Query(row.id, (Message("user", row.question),), row.options)


def _examples(rows: Sequence[Row]) -> tuple[Example, ...]:
    return tuple(Example(_query(row), row.answer or "", row.answer or "") for row in rows)


def _hashed(split: Split, gold: Mapping[str, str], dev: bool) -> Draw:
    def sha(value: object) -> str:
        return hashlib.sha256(canonical_json(value)).hexdigest()

    return Draw(split, gold, sha([split, sorted(gold.items())]), sha(split.labeled), dev)

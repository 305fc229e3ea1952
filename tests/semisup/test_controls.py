"""The strict control: its epoch is chosen on labeled rows that it neither trains on nor shows, and kept to on all of them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tests.semisup.builders import TINY_JOB, examples
from worker.semisup.data import Adapter, Split, StopChoice
from worker.semisup.lm import Lab
from worker.semisup.spec import JobSpec
from worker.semisup.stages import train as module
from worker.semisup.stages.train import choose_stop, labels_only_early, last_as_good
from worker.semisup.task import Task, make_task


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Rows that were trained on, those shown beside them, dev rows, and what `fit` was told; nothing is really trained."""
    seen = SimpleNamespace(trained=[], shown=set(), dev=[], told=[])

    def tokens(self: Task, rows: Sequence[Any], format: str, near: Any = None) -> list[Any]:
        seen.shown |= {i for ids in near.ids.values() for i in ids} if near else set()
        return [SimpleNamespace(id=row.id, prompt=row.id, response=row.id) for row in rows]

    def predictions(task: Task, lm: Any, rows: Sequence[Any], near: Any) -> list[Any]:
        seen.dev.append({row.id for row in rows})
        right = len(seen.dev) in (2, 3)  # the second and the third look are the best; the last of them counts
        return [SimpleNamespace(correct=right, tokens=1) for _ in rows]

    def fit(lab: Lab, start: Any, tokens: Any, recipe: Any, *_: Any, **told: Any) -> Adapter:
        seen.trained.append({one.id for one in (tokens(0) if callable(tokens) else tokens)})
        seen.told.append((start, recipe, told))
        for epoch in range(1, recipe.n_epochs + 1):
            if "after_epoch" in told:
                told["looked"].append(told["after_epoch"](epoch, SimpleNamespace()))
        return Adapter("", "lora", "s", 7, 70, 0.5)

    monkeypatch.setattr(Task, "tokens", tokens)
    monkeypatch.setattr(module, "predictions_of", predictions)
    monkeypatch.setattr(module, "fit", fit)
    return seen


@pytest.mark.parametrize("format", ["plain", "in_context", "mixed"])
def test_a_dev_row_is_neither_trained_on_nor_shown_and_the_final_fit_sees_every_label(
    lab: Lab, spied: SimpleNamespace, format: str
) -> None:
    rows = Split(examples("l", 30), (), examples("t", 6, start=100))
    task = make_task(lab, JobSpec.model_validate({**TINY_JOB, "warmup": {"format": format}}), rows)
    everyone = {row.id for row in rows.labeled}
    stop = choose_stop(task, 4)
    (trained,) = spied.trained
    assert spied.dev == [spied.dev[0]] * 4
    assert trained | spied.dev[0] == everyone
    assert not trained & spied.dev[0]
    assert not spied.shown & spied.dev[0]
    assert bool(spied.shown) == (format != "plain")
    assert stop == StopChoice(3, 4, ((1, 0.0), (2, 1.0), (3, 1.0), (4, 0.0)), stop.dev_size, 70 + 4 * stop.dev_size, ())
    assert stop.dev_size == len(spied.dev[0])

    labels_only_early(task, stop)
    start, recipe, told = spied.told[-1]
    assert spied.trained[-1] == everyone
    assert (start, recipe.n_epochs, told["stop_after"], recipe.format) == (None, 4, 3, format)  # the dev split's schedule


@pytest.mark.parametrize(
    ("looks", "chosen"),
    [
        (("#####..", "####...", "###...."), 3),  # two of seven rows may be chance
        (("######", "##....", "......"), 2),  # six of six are not (p 0.016); four are (p 0.063)
        (("#" * 8 + "....", "........####", "#" * 12, "....." + "#" * 7), 3),  # five lost and none won: p 0.031
        (("#" * 8 + "....", "........####", "#" * 11 + ".", "....." + "#" * 7), 4),  # five lost and one won: p 0.11
        (("....", "....", "...."), 3),
    ],
)
def test_training_goes_on_until_the_dev_split_shows_that_it_hurts(looks: tuple[str, ...], chosen: int) -> None:
    assert last_as_good({epoch: [mark == "#" for mark in row] for epoch, row in enumerate(looks, 1)}) == chosen


@pytest.mark.parametrize(("drop", "thinned"), [(0.0, False), (0.4, True)])
def test_the_strict_control_leaves_out_words_as_evolve_does(
    lab: Lab, spied: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, drop: float, thinned: bool
) -> None:
    shares = []
    whole = Task.dropped_tokens

    def dropped(self: Task, rows: Any, format: str, near: Any, share: float, seed: int) -> Any:
        shares.append(share)
        return whole(self, rows, format, near, share, seed)

    monkeypatch.setattr(Task, "dropped_tokens", dropped)
    rows = Split(examples("l", 30), (), examples("t", 6, start=100))
    task = make_task(lab, JobSpec.model_validate({**TINY_JOB, "evolve": {"token_drop": drop}}), rows)
    labels_only_early(task, choose_stop(task, 4))
    assert shares == ([drop, drop] if thinned else [])

"""The trainings of a job: warm-up, evolve, and the two labels-only controls. All of them are `fit` on differing data."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worker.semisup.data import Adapter, Example, Neighbours, Query, Sample, Selection, StopChoice
from worker.semisup.lm import Lm
from worker.semisup.seeds import derive_seed
from worker.semisup.stages.evaluate import predictions_of
from worker.semisup.stages.fit import fit
from worker.semisup.stages.neighbours import neighbours_of
from worker.semisup.task import Task

STOPS_TRIED = 12  # at most this many epochs are looked at on the dev split


def own_neighbours(task: Task) -> Neighbours:
    """Leave-one-out neighbours of the labeled examples: the demonstrations they are trained with."""
    labeled = task.split.labeled
    return neighbours_of(task.lab, [e.query for e in labeled], labeled, task.spec.propagation.k)


def warm_up(task: Task, neighbours: Neighbours) -> Adapter:
    """In-weight propagation: supervised fine-tuning of the base LM on the labeled set."""
    recipe = task.recipe("warmup", len(task.split.labeled))
    tokens = task.tokens(task.split.labeled, recipe.format, neighbours)
    seed = derive_seed(task.spec.seed, "warmup")
    return fit(task.lab, None, tokens, recipe, task.spec.hyperparameters, seed=seed)


def evolve(
    task: Task, start: Adapter | None, selected: Sequence[Sample], pool: Sequence[Query], neighbours: Neighbours, seed: int
) -> Adapter:
    """Fine-tune on the selected pseudo-responses, with the labeled examples unless the spec leaves them out."""
    queries = {query.id: query for query in pool}
    pseudo = [Example(queries[s.query_id], s.pseudo_response, s.pseudo_label or "", math.exp(-s.mean_nll)) for s in selected]
    labeled = task.split.labeled if task.spec.evolve.data == "labeled+selected" else ()
    examples = (*labeled, *pseudo)
    recipe = task.recipe("evolve", len(examples))
    tokens = task.tokens(examples, recipe.format, neighbours)
    objective = task.spec.evolve.objective
    return fit(task.lab, start, tokens, recipe, task.spec.hyperparameters, seed=seed, objective=objective)


def training_set(selection: Selection, earlier: Sequence[Sample]) -> tuple[Sample, ...]:
    """Everything selected so far: a sample once selected stays in the training set of later rounds."""
    return (*earlier, *selection.chosen())


def horizon(task: Task, *adapters: Adapter | None) -> int:
    """Epochs over the labels that take as many steps as these trainings together; twice the warm-up where there are none.

    What the early-stopped control may use: no fewer steps than the arm it is compared with.
    """
    labeled = len(task.split.labeled)
    recipe = task.recipe("warmup", labeled)
    steps = sum(adapter.steps for adapter in adapters if adapter)
    return math.ceil(steps / math.ceil(labeled / recipe.batch_size)) if steps else 2 * recipe.n_epochs


def choose_stop(task: Task, epochs: int) -> StopChoice:
    """The epoch, of at most `epochs`, at which labels-only training is best on a labeled dev split.

    Best by accuracy, then by the dev answers' NLL. The dev split is drawn from the labeled file alone.
    """
    train, dev = _dev_split(task)
    recipe = replace(task.recipe("warmup", len(train)), n_epochs=epochs)
    every = max(1, math.ceil(epochs / STOPS_TRIED))
    tried: list[tuple[int, float, float]] = []
    prompts = [task.prompt(example, None) for example in dev]
    responses = [task.lab.encode_response(example.response) for example in dev]

    def look(epoch: int, lm: Lm) -> None:
        if epoch % every == 0 or epoch == epochs:
            right = sum(p.correct for p in predictions_of(task, lm, dev, None))
            tried.append((epoch, right / len(dev), -sum(lm.score(prompts, responses)) / len(dev)))

    tokens = task.tokens(train, "plain")
    seed = derive_seed(task.spec.seed, "labels-only", "dev")
    fit(task.lab, None, tokens, recipe, task.spec.hyperparameters, seed=seed, after_epoch=look)
    best = max(tried, key=lambda t: (t[1], t[2]))
    return StopChoice(best[0], epochs, tuple((epoch, accuracy) for epoch, accuracy, _ in tried), len(dev))


def labels_only_early(task: Task, stop: StopChoice) -> Adapter:
    """The strict control: all labels, the dev split's schedule, stopped at the epoch it chose."""
    labeled = task.split.labeled
    recipe = replace(task.recipe("warmup", len(labeled)), n_epochs=stop.horizon)
    seed = derive_seed(task.spec.seed, "labels-only", "early")
    tokens = task.tokens(labeled, "plain")
    return fit(task.lab, None, tokens, recipe, task.spec.hyperparameters, seed=seed, stop_after=stop.epochs)


def labels_only_matched(task: Task, start: Adapter | None, steps: int, neighbours: Neighbours) -> Adapter:
    """The step-matched control: the evolve stage's start, steps, batch, format and learning rate, on the labels alone."""
    labeled = task.split.labeled
    recipe = task.recipe("evolve", len(labeled))
    seed = derive_seed(task.spec.seed, "labels-only", "matched")
    tokens = task.tokens(labeled, recipe.format, neighbours)
    return fit(task.lab, start, tokens, recipe, task.spec.hyperparameters, seed=seed, steps=steps)


def _dev_split(task: Task) -> tuple[list[Example], list[Example]]:
    return stratified_split(task.split.labeled, task.spec.evaluation.dev_fraction, derive_seed(task.spec.seed, "dev-split"))


def stratified_split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(rest, drawn): `fraction` of each answer's examples drawn, at least one in all and at least one left of each answer."""
    generator = np.random.Generator(np.random.Philox(seed))
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(example.answer, []).append(index)
    drawn: set[int] = set()
    spare = 0.0
    for members in groups.values():
        spare += fraction * len(members)
        count = min(len(members) - 1, int(spare))
        spare -= count
        drawn.update(members[i] for i in generator.permutation(len(members))[:count])
    if not drawn:  # every answer occurs once: any example may go
        drawn.update(generator.permutation(len(examples))[: max(1, round(fraction * len(examples)))].tolist())
    return [e for i, e in enumerate(examples) if i not in drawn], [e for i, e in enumerate(examples) if i in drawn]

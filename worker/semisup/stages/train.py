"""The trainings of a job: warm-up, evolve, and the two labels-only controls. All of them are `fit` on differing data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from scipy.stats import binomtest

from worker.semisup.data import Adapter, Example, Neighbours, Query, Sample, Selection, StopChoice
from worker.semisup.lm import Lm
from worker.semisup.seeds import derive_seed
from worker.semisup.splits import Parts, stratified_split
from worker.semisup.stages.evaluate import predictions_of
from worker.semisup.stages.fit import PerEpoch, Tokens, fit
from worker.semisup.stages.neighbours import neighbours_of
from worker.semisup.stages.recipe import FORMS
from worker.semisup.task import Task

STOPS_TRIED = 12  # at most this many epochs are looked at on the dev split
STOP_LEVEL = 0.05  # of the test by which an epoch is worse than the best one


def own_neighbours(task: Task) -> Neighbours:
    """Leave-one-out neighbours of the labeled examples: the demonstrations they are trained with."""
    labeled = task.split.labeled
    return neighbours_of(task.lab, [e.query for e in labeled], labeled, task.spec.propagation.k)


def warm_up(task: Task, neighbours: Neighbours, start: Adapter | None = None) -> Adapter:
    """In-weight propagation: supervised fine-tuning of the base LM, or of an earlier adapter, on the labeled set."""
    recipe = task.recipe("warmup", len(task.split.labeled))
    tokens = task.tokens(task.split.labeled, recipe.format, neighbours)
    seed = derive_seed(task.spec.seed, "warmup")
    return fit(task.lab, start, tokens, recipe, task.spec.hyperparameters, seed=seed)


def evolve(
    task: Task, start: Adapter | None, selected: Sequence[Sample], pool: Sequence[Query], neighbours: Neighbours, seed: int
) -> Adapter:
    """Fine-tune on the selected pseudo-responses, with the labeled examples unless the spec leaves them out."""
    queries = {query.id: query for query in pool}
    pseudo = [Example(queries[s.query_id], s.pseudo_response, s.pseudo_label or "", math.exp(-s.mean_nll)) for s in selected]
    labeled = task.split.labeled if task.spec.evolve.data == "labeled+selected" else ()
    examples = (*labeled, *pseudo)
    recipe = task.recipe("evolve", len(examples))
    tokens, objective = _thinned_tokens(task, examples, recipe.format, neighbours, seed), task.spec.evolve.objective
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
    per_epoch = replace(recipe, n_epochs=1).steps(labeled * len(FORMS[recipe.format]))
    return math.ceil(steps / per_epoch) if steps else 2 * recipe.n_epochs


def choose_stop(task: Task, epochs: int, start: Adapter | None = None) -> StopChoice:
    """The epoch, of at most `epochs`, at which labels-only training from `start` is stopped, by a labeled dev split.

    Trained in the warm-up's format, neighbours shown where the warm-up shows them, words left out as evolve leaves them out:
    the best recipe for labels alone that this project knows. Chosen is the last epoch that the dev split does not show to be
    worse than the best one: a few dev rows rank epochs by chance, and the best of them stopped it far too early (docs/LOG.md).
    The dev split is drawn from the labeled file alone.
    """
    train, dev = _dev_split(task)
    recipe = replace(task.recipe("warmup", len(train)), n_epochs=epochs)
    every = max(1, math.ceil(epochs / STOPS_TRIED))
    tried: list[tuple[int, Sequence[bool], int]] = []  # epoch, dev rows that are right, tokens of the answers

    def look(epoch: int, lm: Lm) -> tuple[int, Sequence[bool], int] | None:
        if epoch % every and epoch != epochs:
            return None
        given = predictions_of(task, lm, dev, None)
        return epoch, [p.correct for p in given], sum(p.tokens for p in given)

    seed = derive_seed(task.spec.seed, "labels-only", "dev")
    tokens = _labels_only_tokens(task, train, recipe.format, seed)
    made = fit(task.lab, start, tokens, recipe, task.spec.hyperparameters, seed=seed, after_epoch=look, looked=tried)
    cost = made.trained_tokens + sum(tokens for _, _, tokens in tried)
    chosen = last_as_good({epoch: right for epoch, right, _ in tried})
    looks = tuple((epoch, sum(right) / len(dev)) for epoch, right, _ in tried)
    return StopChoice(chosen, epochs, looks, len(dev), cost, made.notes)


def last_as_good(looks: Mapping[int, Sequence[bool]]) -> int:
    """The last epoch than which the best is not shown to be better. Epoch -> which dev rows were right.

    Shown: the exact one-sided sign test of the rows on which the two differ (McNemar 1947), at STOP_LEVEL.
    """
    best = max(looks, key=lambda epoch: (sum(looks[epoch]), epoch))

    def worse(epoch: int) -> bool:
        pairs = list(zip(looks[best], looks[epoch], strict=True))
        won, lost = sum(b and not e for b, e in pairs), sum(e and not b for b, e in pairs)
        return bool(won + lost) and binomtest(won, won + lost, alternative="greater").pvalue <= STOP_LEVEL

    return max(epoch for epoch in looks if not worse(epoch))


def labels_only_early(task: Task, stop: StopChoice, start: Adapter | None = None) -> Adapter:
    """The strict control: all labels, the dev split's schedule and left-out words, stopped at the epoch it chose."""
    labeled = task.split.labeled
    recipe = replace(task.recipe("warmup", len(labeled)), n_epochs=stop.horizon)
    seed = derive_seed(task.spec.seed, "labels-only", "early")
    tokens = _labels_only_tokens(task, labeled, recipe.format, seed)
    return fit(task.lab, start, tokens, recipe, task.spec.hyperparameters, seed=seed, stop_after=stop.epochs)


def labels_only_matched(task: Task, start: Adapter | None, steps: int, neighbours: Neighbours) -> Adapter:
    """The step-matched control: all that evolve has (start, steps, recipe, left-out words), on the labels alone."""
    labeled = task.split.labeled
    recipe = task.recipe("evolve", len(labeled))
    seed = derive_seed(task.spec.seed, "labels-only", "matched")
    tokens = _thinned_tokens(task, labeled, recipe.format, neighbours, seed)
    return fit(task.lab, start, tokens, recipe, task.spec.hyperparameters, seed=seed, steps=steps)


def _thinned_tokens(
    task: Task, examples: Sequence[Example], format: str, neighbours: Neighbours | None, seed: int
) -> Sequence[Tokens] | PerEpoch:
    """`examples` in a format, words left out where the spec has some left out."""
    if task.token_drop:
        return task.dropped_tokens(examples, format, neighbours, task.token_drop, seed)
    return task.tokens(examples, format, neighbours)


def _labels_only_tokens(task: Task, examples: Sequence[Example], format: str, seed: int) -> Sequence[Tokens] | PerEpoch:
    """With neighbours among themselves: a dev row is nobody's demonstration."""
    shown = FORMS[format] != (False,)
    near = neighbours_of(task.lab, [e.query for e in examples], examples, task.spec.propagation.k) if shown else None
    return _thinned_tokens(task, examples, format, near, seed)


def _dev_split(task: Task) -> Parts:
    return stratified_split(task.split.labeled, task.spec.evaluation.dev_fraction, derive_seed(task.spec.seed, "dev-split"))

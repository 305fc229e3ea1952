"""What "auto" in a recipe comes to."""

import math

import pytest

from worker.semisup.spec import JobSpec, Training
from worker.semisup.stages.recipe import FORMS, resolve_recipe
from worker.semisup.task import make_task


@pytest.mark.parametrize(
    ("given", "alone"),
    [
        ({}, False),
        ({"profile": "paper"}, True),
        ({"profile": "paper", "propagation": {"in_context": False, "collaboration": False}}, True),
        ({"propagation": {"collaboration": False}}, False),  # pooled: the default without a part is otherwise the same
        ({"resolve": {"resolver": "drop"}}, False),  # classifiers vote beside the LM
        ({"resolve": {"resolver": "vote"}, "propagation": {"collaborators": [{"name": "a"}, {"name": "b"}]}}, True),
    ],
)
def test_a_warm_up_is_longer_where_nothing_but_the_lm_votes(given, alone, lab, split):
    task = make_task(lab, JobSpec.model_validate(given), split)
    recipe = task.recipe("warmup", 60)
    assert recipe.n_epochs == (72 // len(FORMS[recipe.format]) if alone else 12)


def test_auto_means_the_papers_recipe_for_large_lms_and_more_passes_for_small_ones():
    large = resolve_recipe(Training(), "warmup", examples=500, parameters=8_000_000_000)
    assert (large.learning_rate, large.n_epochs, large.batch_size, large.format) == (1e-4, 2, 8, "plain")
    small = resolve_recipe(Training(), "warmup", examples=60, parameters=8_750_000)
    assert small.n_epochs > 2
    assert small.format == "mixed"
    many = [resolve_recipe(Training(), stage, examples=1885, parameters=10**6).n_epochs for stage in ("warmup", "evolve")]
    assert many == [6, 6]
    alone = [
        resolve_recipe(Training(), "warmup", examples=count, parameters=10**6, format=form, alone=True).n_epochs
        for count, form in ((60, "mixed"), (60, "plain"), (385, "mixed"), (385, "plain"), (20, "plain"), (10_000, "mixed"))
    ]
    assert alone == [36, 72, 6, 12, 96, 6]
    assert resolve_recipe(Training(), "evolve", examples=660, parameters=10**6, alone=True).n_epochs == 6
    assert resolve_recipe(Training(), "warmup", examples=60, parameters=8 * 10**9, alone=True).n_epochs == 2
    given = resolve_recipe(Training(learning_rate=0.01, n_epochs=5), "evolve", examples=60, parameters=10**6, factor=0.1)
    assert math.isclose(given.learning_rate, 0.001)
    assert given.n_epochs == 5

"""The job spec: closed, bounded, and its profiles."""

import pytest

from worker.semisup.errors import SpecError
from worker.semisup.spec import JobSpec, load_spec


def test_the_default_is_the_paper():
    spec = JobSpec()
    assert (spec.profile, spec.propagation.k, len(spec.propagation.collaborators)) == ("paper", 3, 4)
    assert (spec.selection.strategy, spec.resolve.resolver, spec.evolve.data) == ("percentile", "justify", "labeled+selected")
    assert (spec.hyperparameters.lora.r, spec.hyperparameters.warmup_ratio) == (16, 0.1)


def test_repo_head_lays_its_values_under_what_is_given():
    spec = load_spec({"profile": "repo_head", "evolve": {"n_epochs": 3}})
    assert (spec.evolve.data, spec.evolve.learning_rate_factor, spec.evolve.n_epochs) == ("selected", 0.01, 3)
    assert (spec.selection.theta, spec.selection.scope) == (30.0, "disputed")
    assert [c.seed for c in spec.propagation.collaborators] == [0, 1, 2, 3]
    assert load_spec({"profile": "repo_head", "selection": {"strategy": "all"}}).selection.strategy == "all"


def test_a_selection_without_a_strategy_means_the_usual_one():
    assert load_spec({"selection": {"theta": 30.0}}).selection.theta == 30.0


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"rounds": True}, "rounds"),
        ({"rounds": 0}, "rounds"),
        ({"rouns": 3}, "rouns"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters"),
        ({"hyperparameters": {"learning_rate": 0.0}}, "hyperparameters"),
        ({"selection": {"strategy": "zip"}}, "selection"),
        ({"propagation": {"k": "3"}}, "propagation.k"),
        ({"propagation": {"collaborators": [{"name": "a"}, {"name": "a"}]}}, "propagation"),
        ({"evaluation": {"confidence": float("nan")}}, "evaluation.confidence"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(given, param):
    with pytest.raises(SpecError) as caught:
        load_spec(given)
    assert caught.value.param == param

"""The job spec: closed, bounded, and its profiles."""

import typing
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from worker.semisup.answers import Answers
from worker.semisup.automatic import settle
from worker.semisup.errors import SpecError
from worker.semisup.spec import JobSpec, load_spec
from worker.semisup.spec.base import Spec


def test_the_paper_profile_is_the_paper():
    spec = load_spec({"profile": "paper"})
    assert (spec.propagation.k, len(spec.propagation.named), spec.calibration.mode) == (3, 4, "off")
    assert {c.temperature for c in spec.propagation.named} == {1.0}
    assert settle(spec, Answers("label", ("a", "b"))) == spec
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
        ({"evolve": {"token_drop": 0.6}}, "evolve"),
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


# --- auto -------------------------------------------------------------------------------------------------------------


def test_auto_pools_where_answers_are_a_closed_set():
    spec = settle(JobSpec(), Answers("choice"))
    assert (spec.resolve.resolver, spec.calibration.mode, spec.selection.strategy) == ("pool", "cross_fit", "all")
    assert (spec.evolve.objective, spec.evolve.relabel, spec.evolve.token_drop) == ("weighted_sft", True, 0.15)
    assert [c.view for c in spec.propagation.named] == ["lm", "lm", "self_training", "label_propagation"]


def test_auto_takes_the_papers_steps_where_answers_are_open():
    spec, paper = settle(JobSpec(), Answers("number")), load_spec({"profile": "paper"})
    assert (spec.resolve.resolver, spec.calibration.mode, spec.evolve.token_drop) == ("justify", "cross_fit", 0.0)
    assert (spec.propagation, spec.selection, spec.evolve) == (paper.propagation, paper.selection, paper.evolve)


def test_texts_are_ranked_by_their_groups_share_too_but_not_in_the_paper():
    assert settle(JobSpec(), Answers("text")).propagation.confidence == "share"
    assert settle(JobSpec(), Answers("number")).propagation.confidence == "mean"
    assert settle(load_spec({"profile": "paper"}), Answers("text")).propagation.confidence == "mean"


def test_risk_control_brings_its_own_calibration():
    spec = load_spec({"resolve": {"resolver": "vote"}, "selection": {"strategy": "risk_control"}})
    assert settle(spec, Answers("text")).calibration.mode == "cross_fit"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"propagation": {"collaborators": [{"name": "a", "view": "logistic"}]}}, "propagation.collaborators"),
        ({"resolve": {"resolver": "pool"}}, "resolve.resolver"),
    ],
)
def test_what_needs_a_closed_set_is_refused_for_open_answers(given, param):
    with pytest.raises(SpecError, match="closed set") as caught:
        settle(load_spec(given), Answers("text"))
    assert caught.value.param == param
    assert "label" in caught.value.hint


def parts_of(kind: type) -> Iterator[type]:
    for part in kind.__subclasses__():
        yield part
        yield from parts_of(part)


def leaves(annotation) -> list:
    inner = typing.get_args(annotation)
    whole = not inner or typing.get_origin(annotation) is typing.Literal
    return [annotation] if whole else [leaf for part in inner for leaf in leaves(part)]


def least(part) -> dict:
    """What a part of a spec must be given."""
    needed = {name: leaves(field.annotation)[0] for name, field in part.model_fields.items() if field.is_required()}
    return {name: {str: "x", int: 1, float: 0.5}.get(kind) or typing.get_args(kind)[0] for name, kind in needed.items()}


NUMBERS = [
    (part, name, float if float in leaves(field.annotation) else int)
    for part in parts_of(Spec)
    if part.__module__.startswith("worker.semisup.spec")  # the front end has some of its own
    for name, field in part.model_fields.items()
    if any(leaf in (int, float) for leaf in leaves(field.annotation))
]
WITHOUT_END = {"tolerance", "max_near_duplicates", "max_mean_nll"}  # any number is one somebody may mean


@pytest.mark.parametrize(("part", "name", "number"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_has_bounds(part, name, number):
    """A field of tomorrow, too: -1 epochs are no job, nor are a million million."""
    for wrong in (-1, *(() if name in WITHOUT_END else (10**12,))):
        with pytest.raises(ValidationError, match=name):
            part.model_validate({**least(part), name: number(wrong)})

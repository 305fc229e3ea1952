"""The whole job, and the profiles its defaults come from."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from worker.semisup.errors import SpecError
from worker.semisup.spec.answer import AnswerSpec, AutoAnswer
from worker.semisup.spec.base import Spec
from worker.semisup.spec.evaluation import Evaluation
from worker.semisup.spec.propagation import DEFAULT_COLLABORATORS, CalibrationSpec, Propagation, Resolve
from worker.semisup.spec.selection import AutoSelection, SelectionSpec
from worker.semisup.spec.training import Evolve, Training, Warmup

# SemiEvol as the paper describes it (methods.md 0).
PAPER: Mapping[str, Any] = {
    "propagation": {
        "confidence": "mean",
        "collaborators": [c.model_dump(exclude_defaults=True) for c in DEFAULT_COLLABORATORS],
    },
    "resolve": {"resolver": "justify"},
    "selection": {"strategy": "percentile", "theta": 50.0, "caps": {"contradictions": "keep"}},
    "evolve": {"objective": "sft", "relabel": False, "token_drop": 0.0},
    "calibration": {"mode": "off"},
}

PROFILES: Mapping[str, Mapping[str, Any]] = {
    # Ours: every default; what they become depends on the answers (worker/semisup/automatic.py).
    "semift": {},
    "paper": PAPER,
    # What the authors' released code does at its head (methods.md 0): no demonstrations, collaborators that differ in their
    # seed only, a 30 % cut on the disputed rows alone, confidence of inference 0, and a second stage on pseudo-responses
    # alone at a hundredth of the learning rate.
    "repo_head": {
        "propagation": {
            "in_context": False,
            "confidence": "first",
            "collaborators": [{"name": f"run-{i}", "temperature": 1.0, "seed": i} for i in range(4)],
        },
        "warmup": {"format": "plain"},
        "resolve": {"resolver": "justify"},
        "selection": {"strategy": "percentile", "theta": 30.0, "scope": "disputed", "caps": {"contradictions": "keep"}},
        "calibration": {"mode": "off"},
        "evolve": {"data": "selected", "format": "plain", "learning_rate_factor": 0.01}
        | {"objective": "sft", "relabel": False, "token_drop": 0.0},
    },
}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, dict by dict; a union member of another kind replaces the whole block."""
    out = dict(under)
    for key, value in over.items():
        below = out.get(key)
        same_kind = (
            isinstance(below, Mapping) and isinstance(value, Mapping) and value.get("strategy") in (None, below.get("strategy"))
        )
        out[key] = _merged(below, value) if same_kind else value  # type: ignore[arg-type]
    return out


class JobSpec(Spec):
    profile: Literal["semift", "paper", "repo_head"] = Field(
        "semift", description="Where defaults come from; anything given here wins."
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Every random choice derives from (seed, stage, sample).")
    rounds: int = Field(1, ge=1, le=10, description="At most this many; see min_gain and patience.")
    min_gain: float = Field(
        0.0, ge=0, le=1, description="A later round replaces the best one when its validation accuracy is more above."
    )
    patience: int = Field(1, ge=0, le=10, description="Rounds in a row that may bring no such gain; 0: every round is run.")
    answer: AnswerSpec = AutoAnswer()
    system_prompt: str | None = Field(None, max_length=8192, description="A system turn for rows that bring none.")
    propagation: Propagation = Propagation()
    warmup: Warmup = Warmup()
    calibration: CalibrationSpec = CalibrationSpec()
    resolve: Resolve = Resolve()
    selection: SelectionSpec = AutoSelection()
    evolve: Evolve = Evolve()
    hyperparameters: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _profile(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        base = PROFILES.get(given["profile"], {}) if isinstance(given.get("profile"), str) else {}
        merged = _merged(base, given)
        for block, tag, usual in (("selection", "strategy", "percentile"), ("answer", "kind", "auto")):
            if isinstance(merged.get(block), Mapping) and tag not in merged[block]:
                kind = "auto" if set(merged[block]) <= {"caps"} else usual  # caps are for any strategy
                merged[block] = {tag: kind, **merged[block]}  # {"theta": 30} means the usual strategy's theta
        return merged


def load_spec(given: Mapping[str, Any]) -> JobSpec:
    """The spec in a parsed YAML or JSON file. Raises SpecError with the first wrong field's dotted path."""
    try:
        return JobSpec.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(_sent(given, first["loc"])) or "spec"
        raise SpecError(f"{path}: {first['msg']}", param=path) from error


def _sent(given: Any, location: tuple[int | str, ...]) -> list[str]:
    """The location without the union branches that pydantic adds: steps that were given, and a last one that is missing."""
    path, here = [], given
    for step in location:
        inside = (isinstance(here, Mapping) and step in here) or (isinstance(here, list | tuple) and isinstance(step, int))
        if inside:
            path.append(str(step))
            here = here[step]
    last = location[-1] if location else None
    if isinstance(here, Mapping) and isinstance(last, str) and last.isidentifier() and path[-1:] != [last]:
        path.append(last)
    return path

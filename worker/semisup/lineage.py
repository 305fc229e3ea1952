"""Which parts of a job spec each stage reads: what must be equal for a stage's output to be used again.

A fork of a job, and arms of a benchmark that differ late only, take over every stage whose fingerprint is the same. The table
lists what changes a stage's *output*. Adding a stage is an entry; adding a field to the spec is a name in an entry
(tests/semisup/test_lineage.py fails until it is there). A stage that has no entry is never taken over.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.semisup.keep import canonical_json
from worker.semisup.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Reads:
    """Spec fields (dotted; a block stands for all in it; or of DERIVED) a stage reads, and the stages whose outputs it reads.

    In a round, `stages` are of the same round and `before` of the one before it, where there is one.
    """

    fields: tuple[str, ...]
    stages: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


CHUNK = "propagation.chunk_size"  # read by every mapped stage: a batch of another shape gives other last bits


def _kept_out(whole: Mapping[str, Any]) -> Any:
    """The share of the labels that warm-up and votes do not see."""
    return _at(whole, "calibration.fraction") if _at(whole, "calibration.mode") == "held_out" else None


def _folds(whole: Mapping[str, Any]) -> Any:
    """What calibration is made of; None when there is none."""
    mode, resolver = _at(whole, "calibration.mode"), _at(whole, "resolve.resolver")
    if mode == "auto":  # means cross_fit; beside an automatic resolver it has the name that fingerprints have always had
        named = resolver == "auto" and _at(whole, "selection.strategy") != "risk_control"
        mode = "auto" if named else "cross_fit"
    parts = {"held_out": _at(whole, "calibration.fraction"), "off": None}
    return None if mode in (None, "off") else [mode, parts.get(mode, _at(whole, "calibration.folds"))]


def _weights(whole: Mapping[str, Any]) -> Any:
    """What the weights of the pool are made of, where there may be one."""
    return _folds(whole) if _at(whole, "resolve.resolver") in ("pool", "auto") else None


NOTHING = (
    object()
)  # read: the usual, of which a fingerprint says nothing, so that those made before there was a choice still hold


def _alone(whole: Mapping[str, Any]) -> Any:
    """Whether "auto" passes of a small LM's warm-up are those of one whose votes stand alone (task.py, recipe.py)."""
    resolver, named = _at(whole, "resolve.resolver"), _at(whole, "propagation.collaborators")
    asked = named if named == "auto" or _at(whole, "propagation.collaboration") else named[:1]
    given = [_at(whole, "warmup.n_epochs"), _at(whole, "hyperparameters.n_epochs")] != ["auto", "auto"]
    if given or resolver == "pool" or (asked != "auto" and any(c["view"] != "lm" for c in asked)):
        return NOTHING
    return [resolver == "auto", asked == "auto"]  # with an "auto" left, the answers decide: automatic.py


# Where a stage reads less than a field, or what several fields make of each other: (the fields, what counts).
DERIVED: Mapping[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Any]]] = {
    "alone": (
        ("resolve.resolver", "propagation.collaborators", "propagation.collaboration", "warmup", "hyperparameters.n_epochs"),
        _alone,
    ),
    "kept-out": (("calibration",), _kept_out),
    "folds": (("calibration", "resolve.resolver", "selection.strategy"), _folds),
    "weights": (("calibration", "resolve.resolver", "selection.strategy"), _weights),
}

# What is no stage, but read like one: the rows as they are split, and how a row becomes a prompt.
INPUTS: Mapping[str, Reads] = {
    "labels": Reads(("seed", "answer", "evaluation.held_out_fraction")),
    "held-out": Reads(("evaluation.on_leakage", "evaluation.validation_fraction"), ("labels",)),
    "prompts": Reads(("system_prompt", "propagation.max_new_tokens", "hyperparameters.max_length"), ("labels",)),
}

# Stages of a round, in order; a longer name (`calibrate/fold-1`) is found by its head.
ROUND: Mapping[str, Reads] = {
    "own-neighbours": Reads(("propagation.k",), ("labels",)),
    "warmup": Reads(
        ("warmup", "hyperparameters", "propagation.in_weight", "propagation.in_context", "kept-out", "alone"),
        ("prompts", "own-neighbours"),
    ),
    "cross-fit": Reads((), (), ("evolve",)),  # trained as the round before evolved, on what that round selected
    "neighbours": Reads(("propagation.k", "propagation.collaborators", "kept-out"), ("labels",), ("evolve",)),
    "views": Reads(("propagation.collaborators", "propagation.collaboration", "folds"), ("labels",), ("evolve",)),
    "calibrate": Reads(("folds", "propagation", "resolve"), ("warmup", "views")),
    "propagate": Reads(
        (
            *("propagation.in_weight", "propagation.in_context", "propagation.k", "propagation.collaboration"),
            *("propagation.collaborators", CHUNK),
        ),
        ("prompts", "warmup", "neighbours"),  # of the views it reads what they say of the pool, whatever the folds
        ("evolve",),
    ),
    "agree": Reads(("propagation.confidence", "resolve.resolver", "weights"), ("propagate",)),
    "justify": Reads(("resolve", CHUNK), ("agree",)),
    "select": Reads(("selection",), ("justify", "calibrate")),
    "evolve": Reads(("evolve", "hyperparameters"), ("select", "warmup", "own-neighbours"), ("evolve",)),
    "evaluate": Reads((CHUNK,), ("evolve", "held-out")),
    "validate": Reads((CHUNK,), ("evolve", "held-out")),
}

# Stages outside rounds. "taken" is the round whose adapter the controls are compared with.
OUTSIDE: Mapping[str, Reads] = {
    "labels-only/stop": Reads(
        ("evaluation.dev_fraction", "hyperparameters", "warmup", "evolve.token_drop"), ("prompts", "taken")
    ),
    "labels-only/early": Reads((), ("labels-only/stop",)),
    "labels-only/validate": Reads((CHUNK,), ("labels-only/early", "held-out")),
    "labels-only/matched": Reads(("evolve", "hyperparameters", "propagation.k"), ("prompts", "taken")),
    "arms/neighbours": Reads(("propagation.k",), ("held-out",)),
    "arms/classifier": Reads((), ("held-out",)),
    "arms/vanilla": Reads((CHUNK,), ("prompts", "held-out")),
    "arms/vanilla-in-context": Reads((), ("arms/vanilla", "arms/neighbours")),
    "arms/labels_only_early": Reads((CHUNK,), ("labels-only/early", "held-out")),
    "arms/labels_only_early-in-context": Reads((), ("arms/labels_only_early", "arms/neighbours")),
    "arms/labels_only_matched": Reads((CHUNK,), ("labels-only/matched", "held-out")),
    "arms/labels_only_matched-in-context": Reads((), ("arms/labels_only_matched", "arms/neighbours")),
    "arms/evolved-in-context": Reads((CHUNK,), ("taken", "arms/neighbours", "held-out")),
}

# Said or decided from stages' outputs, and read by no stage that could be taken over.
UNREAD = (
    *("profile", "evaluation.keep", "evaluation.baselines", "evaluation.with_neighbours", "evaluation.confidence"),
    *("rounds", "min_gain", "patience"),  # which rounds there are, and which is taken: `_taken` adds them
)
# Made of everything, and cheap: a job writes its own.
ALWAYS_AGAIN = ("report", "artifacts")

_IN_ROUND = re.compile(r"round-(\d+)/(.+)")


def fingerprint(spec: JobSpec, stage: str) -> str:
    """sha256 of everything in `spec` that `stage` and the stages before it read; files and base LM are not in it.

    `stage` is a full name (`round-2/select`, `arms/vanilla`); a bare name of ROUND means round 1. Raises KeyError.
    """
    name = f"round-1/{stage}" if _entry(ROUND, stage) else stage
    whole = spec.model_dump(mode="json")
    found = {path: _value(whole, path) for path in sorted(_fields(spec, name, set()))}
    read = {path: value for path, value in found.items() if value is not NOTHING}
    return hashlib.sha256(canonical_json({"stage": name, "reads": read})).hexdigest()


def same_inputs(stage: str, before: JobSpec, now: JobSpec) -> bool:
    """Whether `stage` computes the same under both specs, given the same files, base LM and start."""
    try:
        return fingerprint(before, stage) == fingerprint(now, stage)
    except KeyError:
        return False


def taken_over(stages: Iterable[str], before: JobSpec, now: JobSpec, through: int | None = None) -> list[str]:
    """Those of the earlier job's `stages` that a job with spec `now` can use again; `through`: no round after this one."""
    last = min(now.rounds, through or now.rounds)
    return [name for name in stages if _round(name, now, last) <= last and same_inputs(name, before, now)]


def _round(stage: str, now: JobSpec, last: int) -> int:
    """The last round whose output `stage` reads."""
    if found := _IN_ROUND.fullmatch(stage):
        return int(found[1])
    return now.rounds if _reads_taken(stage) else last


def _reads_taken(stage: str) -> bool:
    return stage == "taken" or (stage in OUTSIDE and any(_reads_taken(name) for name in OUTSIDE[stage].stages))


def _fields(spec: JobSpec, stage: str, seen: set[str]) -> Iterator[str]:
    if stage in seen:
        return
    seen.add(stage)
    if stage == "taken":
        yield from _taken(spec, seen)
        return
    if found := _IN_ROUND.fullmatch(stage):
        number, reads = int(found[1]), _entry(ROUND, found[2])
        if reads is None:
            raise KeyError(stage)
        names = [name if name in INPUTS else f"round-{number}/{name}" for name in reads.stages]
        names += [f"round-{number - 1}/{name}" for name in reads.before] if number > 1 else []
    else:
        reads = INPUTS.get(stage) or OUTSIDE[stage]
        names = list(reads.stages)
    yield from reads.fields
    for name in names:
        yield from _fields(spec, name, seen)


def _taken(spec: JobSpec, seen: set[str]) -> Iterator[str]:
    """What decides which round is taken, and what that round made."""
    yield "rounds"
    if spec.rounds > 1:
        yield from ("min_gain", "patience", CHUNK)
        yield from _fields(spec, "held-out", seen)
    for number in range(1, spec.rounds + 1):
        yield from _fields(spec, f"round-{number}/evolve", seen)


def _entry(table: Mapping[str, Reads], name: str) -> Reads | None:
    while name not in table and "/" in name:
        name = name.rpartition("/")[0]
    return table.get(name)


def _value(whole: Mapping[str, Any], field: str) -> Any:
    return DERIVED[field][1](whole) if field in DERIVED else _at(whole, field)


def _at(whole: Mapping[str, Any], path: str) -> Any:
    here: Any = whole
    for step in path.split("."):
        here = here.get(step) if isinstance(here, Mapping) else None
    return here

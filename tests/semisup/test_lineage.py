"""What a stage is said to read is what it reads: nothing is taken over that a fresh job would compute otherwise."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from tests.semisup.builders import PAPER_JOB
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep, canonical_json
from worker.semisup.lineage import ALWAYS_AGAIN, DERIVED, INPUTS, OUTSIDE, ROUND, UNREAD, fingerprint, same_inputs, taken_over
from worker.semisup.spec import JobSpec
from worker.semisup.task import make_task

ONE_ROUND = [
    *("round-1/own-neighbours", "round-1/warmup", "round-1/neighbours", "round-1/propagate", "round-1/agree"),
    *("round-1/justify", "round-1/select", "round-1/evolve", "round-1/evaluate"),
]


def tiny(**changes) -> JobSpec:
    return JobSpec.model_validate({**PAPER_JOB, **changes})


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel] | None]]:
    """(dotted path, the model behind it when it is exactly one), one level."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        yield f"{prefix}{name}", kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def unnamed(model: type[BaseModel], named: set[str], prefix: str = "") -> list[str]:
    missing = []
    for path, block in leaves(model, prefix):
        if path in named:
            continue
        inside = any(name.startswith(f"{path}.") for name in named)
        missing += unnamed(block, named, f"{path}.") if block and inside else [path]
    return missing


def test_every_field_of_a_spec_is_named_by_a_stage_or_said_to_be_read_by_none():
    named = set(UNREAD).union(*(reads.fields for table in (INPUTS, ROUND, OUTSIDE) for reads in table.values()))
    named |= {source for name in named & DERIVED.keys() for source in DERIVED[name][0]}
    assert unnamed(JobSpec, named) == [], "say in worker/semisup/lineage.py which stage reads the new field"


def test_every_name_in_the_table_is_a_field_or_an_entry():
    whole = JobSpec().model_dump()
    for table in (INPUTS, ROUND, OUTSIDE):
        for reads in table.values():
            for path in (p for field in reads.fields for p in (DERIVED[field][0] if field in DERIVED else (field,))):
                block, _, name = path.partition(".")
                assert block in whole
                assert not name or name in whole[block], path  # a union member's own fields are named by their block
            assert set(reads.before) <= ROUND.keys()
            assert set(reads.stages) <= {*INPUTS, *(ROUND if table is ROUND else OUTSIDE), "taken"}


@pytest.mark.parametrize(
    ("changed", "first_again"),
    [
        ({"selection": {"strategy": "agreement"}}, "select"),
        ({"resolve": {"resolver": "vote"}}, "agree"),  # which reads the calibration, which resolves
        ({"evolve": {"n_epochs": 3}}, "evolve"),
        ({"propagation": {**PAPER_JOB["propagation"], "confidence": "first"}}, "agree"),
        ({"propagation": {**PAPER_JOB["propagation"], "chunk_size": 5}}, "propagate"),
        ({"system_prompt": "Be brief."}, "warmup"),
        ({"warmup": {"n_epochs": 21}}, "warmup"),
        ({"seed": 1}, "own-neighbours"),
        ({}, None),
    ],
)
def test_a_changed_field_is_computed_again_from_the_first_stage_that_reads_it(changed, first_again):
    taken = [name.removeprefix("round-1/") for name in taken_over(ONE_ROUND, tiny(), tiny(**changed))]
    order = [name.removeprefix("round-1/") for name in ONE_ROUND]
    untouched = {"neighbours"} if first_again == "warmup" else set()  # looked up by the text of the rows alone
    expected = order[: order.index(first_again)] if first_again else order
    assert set(taken) == {*expected, *untouched}


def test_what_the_report_only_says_changes_no_stage():
    now = tiny(evaluation={"confidence": 0.9, "keep": "evolved", "baselines": False, "with_neighbours": False})
    stages = [*ONE_ROUND, *OUTSIDE]
    assert taken_over(stages, tiny(), now) == stages


def test_a_report_is_never_taken_over_and_neither_is_a_stage_nobody_described():
    assert taken_over([*ALWAYS_AGAIN, "round-1/mystery", "mystery"], tiny(), tiny()) == []
    with pytest.raises(KeyError):
        fingerprint(tiny(), "mystery")


def test_one_more_round_takes_over_the_rounds_before_it_but_not_the_controls_that_follow_the_last():
    stages = ["round-1/evolve", "round-2/own-neighbours", "round-2/evolve", "labels-only/early", "arms/vanilla"]
    assert taken_over(stages, tiny(rounds=2), tiny(rounds=3)) == [*stages[:3], "arms/vanilla"]


def test_a_later_round_reads_what_the_rounds_before_it_read():
    changed = tiny(rounds=2, selection={"strategy": "agreement"})
    stages = ["round-1/propagate", "round-1/select", "round-2/own-neighbours", "round-2/neighbours", "round-2/propagate"]
    assert taken_over(stages, tiny(rounds=2), changed) == ["round-1/propagate", "round-2/own-neighbours"]


def test_no_round_after_the_named_one_is_taken_over():
    stages = ["round-1/evolve", "round-2/propagate", "labels-only/early", "arms/vanilla"]
    assert taken_over(stages, tiny(rounds=2), tiny(rounds=2), through=1) == ["round-1/evolve", "arms/vanilla"]
    assert taken_over(stages, tiny(rounds=2), tiny(rounds=2), through=2) == stages


def test_a_bare_name_means_the_first_round_and_a_long_one_its_head():
    assert fingerprint(tiny(), "select") == fingerprint(tiny(), "round-1/select")
    assert fingerprint(tiny(), "select") != fingerprint(tiny(), "round-2/select")
    assert not same_inputs("round-1/calibrate/fold-1", tiny(), tiny(seed=1))
    assert same_inputs("round-1/calibrate/fold-1", tiny(), tiny())


@pytest.mark.parametrize(
    ("spec", "changed", "again"),
    [
        ({"resolve": {"resolver": "pool"}}, {"calibration": {"folds": 4}}, {"views", "calibrate", "agree", "select"}),
        ({"resolve": {"resolver": "vote"}}, {"calibration": {"folds": 4}}, {"views", "calibrate", "select"}),
        ({"calibration": {"mode": "off", "folds": 3}}, {"calibration": {"mode": "off", "folds": 4}}, set()),  # nobody reads it
        ({"resolve": {"resolver": "vote"}}, {"selection": {"strategy": "risk_control"}}, {"select"}),
        ({"calibration": {"mode": "held_out"}}, {"calibration": {"mode": "cross_fit"}}, {"warmup", "propagate", "calibrate"}),
    ],
)
def test_other_folds_cost_no_vote_unless_labels_are_held_out(spec, changed, again):
    usual = {"profile": "semift", "selection": {"strategy": "all"}, "evolve": {"n_epochs": 2}, "calibration": {"mode": "auto"}}
    before, now = tiny(**{**usual, **spec}), tiny(**{**usual, **spec, **changed})
    run_again = {name for name in ROUND if not same_inputs(f"round-1/{name}", before, now)}
    assert again <= run_again
    assert "propagate" in again or run_again.isdisjoint({"warmup", "propagate"})
    assert again or run_again == set()


WARM_UPS = [
    {},
    {"resolve": {"resolver": "pool"}},
    {"resolve": {"resolver": "vote"}},
    {"resolve": {"resolver": "vote"}, "propagation": {"collaborators": [{"name": "a"}, {"name": "b"}]}},
    {"resolve": {"resolver": "drop"}, "propagation": {"collaborators": [{"name": "a"}, {"name": "b", "view": "knn"}]}},
    {
        "resolve": {"resolver": "drop"},
        "propagation": {"collaboration": False, "collaborators": [{"name": "a"}, {"name": "b", "view": "knn"}]},
    },
    {"profile": "paper"},
    {"profile": "paper", "resolve": {"resolver": "pool"}},
    {"profile": "paper", "warmup": {"n_epochs": 12}},
]


def test_a_warm_up_is_used_again_only_where_it_would_be_as_long(lab, split):
    """What "auto" passes come to depends on who votes beside the LM."""
    specs = [JobSpec.model_validate(given) for given in WARM_UPS]
    passes = [make_task(lab, spec, split).recipe("warmup", 60).n_epochs for spec in specs]
    same = {(i, j) for i, a in enumerate(specs) for j, b in enumerate(specs) if i < j and same_inputs("warmup", a, b)}
    assert {(i, j) for i, j in same if passes[i] != passes[j]} == set()
    assert len(set(passes)) == 2
    assert {(1, 4), (1, 7), (3, 5), (3, 6)} <= same, "who resolves does not matter beyond that"


def by_stage(keep: MemoryKeep) -> dict[str, bytes]:
    """Stage -> its output as bytes, chunks joined; folders of adapters differ from run to run, their sha256 does not."""
    out: dict[str, bytes] = {}
    for name, value in sorted(keep.stored.items()):
        head, _, tail = name.rpartition("/")
        stage = head if tail.isdigit() else name
        said = value.sha256.encode() if hasattr(value, "sha256") else canonical_json(value)
        out[stage] = out.get(stage, b"") + said
    return out


POOLED = {
    "profile": "semift",
    "selection": {"strategy": "auto"},
    "propagation": {**PAPER_JOB["propagation"], "collaborators": "auto"},
    "calibration": {"folds": 2},
    "evaluation": {"with_neighbours": False},
    **{"rounds": 2, "patience": 0},
}
PAPER = {"rounds": 2, "patience": 0, "selection": {"strategy": "percentile", "theta": 60.0}}
CHANGES = {
    "pooled": [
        {"calibration": {"folds": 3}},
        {"calibration": {"mode": "held_out"}},
        {"resolve": {"resolver": "vote"}},
        {"selection": {"strategy": "risk_control", "precision": 0.5}},
        {"evolve": {"n_epochs": 2, "token_drop": 0.3}},
        {"evolve": {"n_epochs": 2, "objective": "sft"}},
    ],
    "paper": [
        {"selection": {"strategy": "risk_control", "precision": 0.5}},
        {"selection": {"strategy": "percentile", "theta": 30.0}},
        {"resolve": {"resolver": "drop"}},
        {"evolve": {"n_epochs": 1}},
        {"warmup": {"n_epochs": 18, "format": "in_context"}},
        {"propagation": {**PAPER_JOB["propagation"], "max_new_tokens": 4}},
        {"propagation": {**PAPER_JOB["propagation"], "confidence": "first"}},
        {"propagation": {**PAPER_JOB["propagation"], "chunk_size": 5}},
        {"hyperparameters": {**PAPER_JOB["hyperparameters"], "max_length": 64}},
        {"evaluation": {"keep": "evolved", "dev_fraction": 0.4}},
        {"rounds": 1},
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("usual", "changes"), [(POOLED, CHANGES["pooled"]), (PAPER, CHANGES["paper"])], ids=["pooled", "paper"]
)
def test_every_stage_that_would_be_taken_over_has_the_bytes_of_a_fresh_job(lab, split, usual, changes):
    """Soundness of the whole table: one block changed at a time, on a job with every control."""

    def run(now: JobSpec) -> dict[str, bytes]:
        keep = MemoryKeep(now.propagation.chunk_size)
        lab.tick = keep.tick
        run_job(now, split, lab=lab, keep=keep)
        return by_stage(keep)

    before = tiny(**usual)
    first = run(before)
    known = {f"round-{n}/{name}" for n in (1, 2) for name in ROUND} | OUTSIDE.keys() | set(ALWAYS_AGAIN)
    assert {name for name in first if not any(name == k or name.startswith(f"{k}/") for k in known)} == set()
    assert taken_over(first, before, before) == [name for name in first if name not in ALWAYS_AGAIN]
    for change in changes:
        now = tiny(**{**usual, **change})
        fresh = run(now)
        taken = taken_over(first, before, now)
        assert taken, change
        wrong = [name for name in taken if name in fresh and fresh[name] != first[name]]
        assert wrong == [], f"{change}: the table leaves out what these stages read"

"""Orders that build on an earlier job: what they inherit, what they may change, and what is refused."""

import json
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from models.db import transaction
from models.queries import leases, stages
from models.status import JobStatus
from tests.api.conftest import Uploads
from tests.api.ordering import created, finished, post, refused
from tests.api.rows import claim, fail, labeled, run_to_the_end, unlabeled
from tests.api.sending import JOBS, World, new_world, upload
from tests.worker.watching import events

MODEL = "semift-small"
ROUND = [*("own-neighbours", "warmup", "neighbours", "agree", "select", "evolve")]
MANIFEST = {"type": "Neighbours", "many": False, "files": {}}


@pytest.fixture
def world(app: TestClient) -> World:
    return new_world(app)


def failed_after_votes(world: World, **semi: Any) -> str:
    """A job of one round that failed in select: everything before it is kept."""
    order = world.order()
    order["method"]["semi_supervised"] |= semi
    job = str(created(world, **order)["id"])
    lease = claim()
    with transaction() as session:
        for name in ROUND[:3]:
            stages.commit_stage(session, lease, f"round-1/{name}", MANIFEST, {}, 0.1)
        stages.open_stage(session, lease, "round-1/propagate", 2, 12)
        for number in (0, 1):
            stages.claim_chunk(session, lease, "round-1/propagate")
            stages.commit_chunk(session, lease, "round-1/propagate", number, MANIFEST, 0.1)
        stages.commit_stage(session, lease, "round-1/agree", MANIFEST, {}, 0.1)
        stages.begin_stage(session, lease, "round-1/select")
    with transaction() as session:
        leases.finish(session, lease, JobStatus.failed, error={"code": "x", "message": "it broke", "param": None})
    return job


# --- from_job ---------------------------------------------------------------------------------------------------------

SENT: dict[str, Any] = {
    "method": lambda f: {"method": {"type": "semi_supervised", "semi_supervised": f}},
    "top level": lambda f: {"method": {"type": "supervised"}, **f},
    "beside a legal method": lambda f: {"method": {"type": "supervised"}, "semi_supervised": f},
    "metadata": lambda f: {"metadata": {f"semi.{key}": value for key, value in f.items()}},
}


@pytest.mark.parametrize("carrier", list(SENT))
def test_from_job_travels_like_the_unlabeled_file_and_brings_model_and_labels(world: World, carrier: str) -> None:
    first = finished(world)
    new = upload(world.app, unlabeled(20), "new.jsonl")
    job = created(world, **SENT[carrier]({"from_job": first["id"], "unlabeled_file": new}))
    assert (job["from_job"], job["fork"], job["model"]) == (first["id"], None, MODEL)
    assert (job["training_file"], job["unlabeled_file"]) == (world.labeled, new)
    assert f"Training goes on from the adapter of {first['id']}" in events(job["id"])
    assert (first["from_job"], first["fork"]) == (None, None)


def test_the_name_of_a_fine_tuned_model_means_the_same(world: World) -> None:
    first = finished(world)
    job = created(world, **{**world.order(), "model": first["fine_tuned_model"]})
    assert (job["from_job"], job["model"]) == (first["id"], MODEL)
    other = finished(world)
    both = {**world.order(), "model": first["fine_tuned_model"], "from_job": other["id"]}
    assert refused(world, 400, "conflicting_fields", **both)["param"] == "from_job"
    world.app.delete(f"/v1/models/{first['fine_tuned_model']}")
    refused(world, 400, "model_not_allowed", **{**world.order(), "model": first["fine_tuned_model"]})


def test_test_and_validation_files_come_along_when_none_is_given(world: World) -> None:
    test, validation = (upload(world.app, labeled(20, first), f"{first}.jsonl") for first in (200, 300))
    order = world.order()
    order["method"]["semi_supervised"]["test_file"] = test
    first = created(world, **order, validation_file=validation)
    run_to_the_end()
    more = upload(world.app, labeled(8, 400), "more.jsonl")
    job = created(world, from_job=first["id"], training_file=more, unlabeled_file=world.unlabeled)
    assert (job["training_file"], job["test_file"], job["validation_file"]) == (more, test, validation)
    own = created(world, from_job=first["id"], unlabeled_file=world.unlabeled, test_file=validation)
    assert (own["test_file"], own["validation_file"]) == (validation, None)


def test_without_unlabeled_rows_it_is_plain_fine_tuning_that_goes_on(world: World) -> None:
    first = finished(world)
    job = created(world, from_job=first["id"])
    assert (job["method"]["type"], job["unlabeled_file"], job["from_job"]) == ("supervised", None, first["id"])


@pytest.mark.parametrize("which", ["from_job", "fork"])
def test_an_unknown_job_is_like_an_unknown_file(world: World, which: str) -> None:
    value: Any = "ftjob-unknown" if which == "from_job" else {"job": "ftjob-unknown"}
    error = refused(world, 400, "job_not_found", **{**world.order(), which: value})
    assert error["param"] == ("from_job" if which == "from_job" else "fork.job")
    assert "ftjob-unknown" in error["message"]


def test_a_job_that_has_not_succeeded_has_no_adapter_to_go_on_from(world: World) -> None:
    first = created(world, **world.order())
    assert "Wait" in refused(world, 409, "invalid_state", from_job=first["id"], unlabeled_file=world.unlabeled)["hint"]
    refused(world, 409, "invalid_state", fork={"job": first["id"]})
    fail()
    assert "Fork" in refused(world, 409, "invalid_state", from_job=first["id"], unlabeled_file=world.unlabeled)["hint"]


def test_training_goes_on_with_the_same_kind_of_weights(world: World) -> None:
    first = finished(world)
    order = {"from_job": first["id"], "unlabeled_file": world.unlabeled}
    for name, value in (("trainable", "full"), ("lora", {"r": 8})):
        error = refused(world, 400, "adapter_mismatch", **order, hyperparameters={name: value})
        assert error["param"] == f"method.semi_supervised.hyperparameters.{name}"
    assert "'lora'" in refused(world, 400, "adapter_mismatch", **order, hyperparameters={"trainable": "full"})["hint"]


def test_another_base_language_model_is_refused(world: World) -> None:
    first = finished(world)
    error = refused(world, 400, "conflicting_fields", from_job=first["id"], unlabeled_file=world.unlabeled, model="other")
    assert error["param"] == "model"
    assert MODEL in error["message"]


def test_an_adapter_nothing_would_start_from_is_refused(world: World) -> None:
    first = finished(world)
    semi = {"unlabeled_file": world.unlabeled, "from_job": first["id"], "propagation": {"in_weight": False}}
    refused(world, 400, "cross_field", method={"type": "semi_supervised", "semi_supervised": semi})


def test_no_labels_are_held_out_for_calibration_that_the_adapter_may_have_learned(world: World) -> None:
    first = finished(world)
    semi = {"unlabeled_file": world.unlabeled, "from_job": first["id"], "calibration": {"mode": "held_out"}}
    error = refused(world, 400, "cross_field", method={"type": "semi_supervised", "semi_supervised": semi})
    assert error["param"] == "method.semi_supervised.calibration.mode"
    assert "cross_fit" in error["hint"]


def test_nobody_builds_on_a_deleted_file(world: World) -> None:
    first = finished(world)
    world.app.delete(f"/v1/files/{world.labeled}")
    error = refused(world, 400, "file_not_found", from_job=first["id"], unlabeled_file=world.unlabeled)
    assert f"The training_file of {first['id']}" in error["message"]


def test_without_an_earlier_job_model_and_labels_are_needed(world: World) -> None:
    error = refused(world, 400, "missing_field")
    assert [found["param"] for found in error["errors"]] == ["model", "training_file"]


# --- fork -------------------------------------------------------------------------------------------------------------


def test_a_fork_has_the_files_and_the_spec_of_its_job_but_for_what_it_gives(world: World) -> None:
    first = failed_after_votes(world, rounds=2, propagation={"k": 2}, selection={"strategy": "percentile", "theta": 30.0})
    job = created(world, fork={"job": first}, semi_supervised={"selection": {"theta": 40.0}}, seed=42)
    assert (job["model"], job["training_file"], job["unlabeled_file"]) == (MODEL, world.labeled, world.unlabeled)
    assert job["method"]["type"] == "semi_supervised"
    assert (job["spec"]["rounds"], job["spec"]["propagation"]["k"]) == (2, 2)
    was = world.app.get(f"{JOBS}/{first}").json()["spec"]
    assert job["spec"] == {**was, "selection": {**was["selection"], "theta": 40.0}}
    other = created(world, fork={"job": first}, semi_supervised={"selection": {"strategy": "agreement"}})
    assert (other["spec"]["selection"]["strategy"], "theta" in other["spec"]["selection"]) == ("agreement", False)


CAPS = {"max_class_share": 0.5}


@pytest.mark.parametrize(
    ("given", "caps"),
    [
        ({"theta": 30}, CAPS),
        ({"theta": 30, "caps": {"max_near_duplicates": 2}}, {**CAPS, "max_near_duplicates": 2}),
    ],
)
def test_a_fork_of_a_job_that_left_selection_to_us_may_give_a_field_of_the_usual_selector(
    world: World, given: dict[str, Any], caps: dict[str, Any]
) -> None:
    first = failed_after_votes(world, selection={"caps": CAPS})
    job = created(world, fork={"job": first}, semi_supervised={"selection": given})
    order = world.order()
    order["method"]["semi_supervised"]["selection"] = {**given, "caps": caps}
    assert job["spec"] == created(world, **order)["spec"], "as in a new job, with the caps of the earlier one"
    assert (job["spec"]["selection"]["strategy"], job["spec"]["selection"]["theta"]) == ("percentile", 30.0)


@pytest.mark.parametrize("profile", ["semift", "paper"])
def test_a_fork_that_gives_what_any_selector_has_leaves_selection_to_us_as_its_job_did(world: World, profile: str) -> None:
    first = failed_after_votes(world, profile=profile, selection={"strategy": "auto"})
    was = world.app.get(f"{JOBS}/{first}").json()["spec"]["selection"]
    for given in ({"caps": CAPS}, {"strategy": "auto", "caps": CAPS}):
        job = created(world, fork={"job": first}, semi_supervised={"selection": given})
        assert job["spec"]["selection"] == {"strategy": "auto", "caps": {**was["caps"], **CAPS}}
    unknown = {"selection": {"theta": 30, "thetta": 3}}
    error = refused(world, 400, "unknown_field", fork={"job": first}, semi_supervised=unknown)
    assert error["param"] == "semi_supervised.selection.thetta"


def test_a_fork_says_what_it_takes_over_and_what_runs_again(world: World) -> None:
    first = failed_after_votes(world)
    job = created(world, fork={"job": first}, semi_supervised={"selection": {"strategy": "agreement"}})
    kept = [f"round-1/{name}" for name in ("own-neighbours", "warmup", "neighbours", "propagate", "agree")]
    assert job["fork"] == {"job": first, "round": None, "taken_over": kept, "run_again": []}
    assert f"Fork of {first}: 5 of its stages need no second run" in events(job["id"])
    assert world.app.get(f"{JOBS}/{job['id']}").json()["fork"] == job["fork"]
    early = created(world, fork={"job": first}, seed=7)
    assert early["fork"]["taken_over"] == []
    assert early["fork"]["run_again"] == kept
    assert any("0 of its stages need no second run; these run again: round-1/own-neighbours" in m for m in events(early["id"]))


def test_a_fork_at_a_round_takes_over_none_after_it(world: World) -> None:
    first = finished(world, rounds=2)
    job = created(world, fork={"job": first["id"], "round": 1})
    assert job["fork"]["taken_over"] == ["round-1/select", "round-1/evolve"]
    assert job["fork"]["run_again"] == ["round-2/select", "round-2/evolve"]
    error = refused(world, 400, "out_of_range", fork={"job": first["id"], "round": 3})
    assert (error["param"], "2 rounds" in error["message"]) == ("fork.round", True)
    refused(world, 400, "out_of_range", fork={"job": first["id"], "round": 0})


def test_a_fork_has_no_other_files_model_profile_or_start(world: World) -> None:
    first = finished(world)
    other = upload(world.app, unlabeled(20), "new.jsonl")
    fork = {"fork": {"job": first["id"]}}
    assert refused(world, 400, "conflicting_fields", **fork, unlabeled_file=other)["param"] == "unlabeled_file"
    assert refused(world, 400, "conflicting_fields", **fork, test_file=other)["param"] == "test_file"
    assert refused(world, 400, "conflicting_fields", **fork, model="other")["param"] == "model"
    assert refused(world, 400, "conflicting_fields", **fork, from_job=first["id"])["param"] == "from_job"
    semi = {"profile": "repo_head"}
    assert refused(world, 400, "conflicting_fields", **fork, semi_supervised=semi)["param"] == "profile"
    assert created(world, **fork, model=MODEL, training_file=world.labeled)["fork"]["job"] == first["id"]


def test_a_fork_of_a_job_that_went_on_goes_on_from_the_same_adapter(world: World) -> None:
    first = finished(world)
    second = created(world, from_job=first["id"], unlabeled_file=world.unlabeled)
    run_to_the_end()
    third = created(world, fork={"job": second["id"]}, semi_supervised={"selection": {"strategy": "all"}})
    assert (third["from_job"], third["fork"]["job"]) == (first["id"], second["id"])
    # What a fork changes may draw rows that the adapter was trained on.
    assert refused(world, 400, "missing_field", fork={"job": second["id"]}, seed=7)["param"] == "test_file"


def test_a_cancelled_job_may_be_forked(world: World) -> None:
    first = created(world, **world.order())
    world.app.post(f"{JOBS}/{first['id']}/cancel")
    job = created(world, fork={"job": first["id"]})
    assert (job["fork"]["taken_over"], job["fork"]["run_again"]) == ([], [])


@pytest.mark.parametrize("fork", ["ftjob-1", {"round": 1}, {"job": 3}, {"job": "x", "rounds": 1}])
def test_a_fork_that_is_none_is_refused_by_field(world: World, fork: Any) -> None:
    response = post(world, **world.order(), fork=fork)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("fork")


# --- the unmodified client --------------------------------------------------------------------------------------------


def test_the_stock_client_sends_both(client: openai.OpenAI, upload: Uploads) -> None:
    files = upload.labeled(), upload.unlabeled()
    semi: Any = {"type": "semi_supervised", "semi_supervised": {"unlabeled_file": files[1]}}
    first = client.fine_tuning.jobs.create(model=MODEL, training_file=files[0], method=semi)
    run_to_the_end()
    extra: Any = client.fine_tuning.jobs.create(
        model=MODEL, training_file=files[0], extra_body={"from_job": first.id, "unlabeled_file": files[1]}
    )
    carried: Any = client.fine_tuning.jobs.create(
        model=MODEL, training_file=files[0], metadata={"semi.from_job": first.id, "semi.unlabeled_file": files[1]}
    )
    assert (extra.from_job, carried.from_job) == (first.id, first.id)
    name = client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    named: Any = client.fine_tuning.jobs.create(model=str(name), training_file=files[0])
    assert (named.from_job, named.model) == (first.id, MODEL)
    fork: Any = client.fine_tuning.jobs.create(
        model=MODEL, training_file=files[0], metadata={"semi.fork.job": first.id, "semi.fork.round": "1"}
    )
    assert (fork.fork["job"], fork.fork["round"], fork.unlabeled_file) == (first.id, 1, files[1])
    assert [job.id for job in client.fine_tuning.jobs.list()][-1] == first.id


@pytest.mark.parametrize("name", ["\x00", "ft:\x00", "ftjob-\ud800", "x" * 5000, "", "ftjob-é"])
def test_any_text_is_an_unknown_job_or_model(world: World, name: str) -> None:
    """PostgreSQL stores no NUL and no lone surrogate: what cannot be an id is answered like an id that is not there."""
    body = {"training_file": world.labeled, "unlabeled_file": world.unlabeled}
    for order in ({**body, "model": name}, {**body, "from_job": name}, {**body, "fork": {"job": name}}):
        response = post(world, **order) if name != "ftjob-\ud800" else world.app.post(
            JOBS, content=json.dumps(order), headers={"content-type": "application/json"}
        )  # fmt: skip
        assert response.status_code == 400, response.text
        assert response.json()["error"]["hint"]

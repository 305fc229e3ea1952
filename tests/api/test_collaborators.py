"""What a job's collaborators may name: refused with what there is, before anything is queued."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from models.db import transaction
from models.queries.adapters import adapter_files
from models.settings import EngineSettings, Settings, engine_key
from tests.api.rows import labeled, run_to_the_end
from tests.api.sending import JOBS, SEMI, World, new_world
from tests.rows import add_job, set_job
from worker.places import NotHere, places
from worker.semisup.answers import Answers
from worker.semisup.automatic import CLOSED_VIEWS, settle
from worker.semisup.engines.endpoint import Endpoint
from worker.semisup.errors import SpecError
from worker.semisup.spec import load_spec

BIG = {"url": "http://10.0.0.7:8000/v1", "model": "m", "api_key_env": "SOME_KEY"}


@pytest.fixture
def world(app: TestClient, configure: Any) -> World:
    configure(engines=json.dumps({"big-one": BIG}), base_lms=json.dumps({"semift-small": "bundled:3", "tiny": "bundled:1"}))
    return new_world(app)


def order(world: World, **collaborator: str) -> Any:
    body = world.order()
    collaborators = [{"name": "a"}, {"name": "b", **collaborator}]
    body["method"]["semi_supervised"]["propagation"] = {"collaborators": collaborators}
    return world.app.post(JOBS, json=body)


def test_names_that_exist_are_accepted_and_shown_and_the_engines_address_is_not(world: World) -> None:
    for collaborator in ({"engine": "big-one"}, {"lm": "tiny"}, {"engine": "big-one", "optional": True}):
        response = order(world, **collaborator)
        assert response.status_code == 200, response.text
        shown = response.json()["spec"]["propagation"]["collaborators"][1]
        assert shown.items() >= collaborator.items()
        assert "10.0.0.7" not in response.text
        assert "SOME_KEY" not in response.text


@pytest.mark.parametrize(
    ("collaborator", "code", "says"),
    [
        ({"engine": "big"}, "unknown_engine", "Did you mean 'big-one'?"),
        ({"engine": "zzz"}, "unknown_engine", "Use one of big-one."),
        ({"lm": "tin"}, "model_not_allowed", "Did you mean 'tiny'?"),
        ({"adapter": "ft:nobody"}, "model_not_found", "Offered: none"),
    ],
)
def test_a_name_that_does_not_is_refused_with_those_that_do(world: World, collaborator: Any, code: str, says: str) -> None:
    response = order(world, **collaborator)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, code)
    assert error["param"] == f"{SEMI}.propagation.collaborators.1.{next(iter(collaborator))}"
    assert says in f"{error['message']} {error['hint']}"


POOL = {"resolve": {"resolver": "pool"}}
CLASSIFIERS = [{"propagation": {"collaborators": [{"name": "v", "view": v}]}} for v in CLOSED_VIEWS]


def answered(world: World, kind: str, semi: dict[str, Any]) -> Any:
    body = world.order()
    body["method"]["semi_supervised"] |= {"answer": {"kind": kind}, **semi}
    return world.app.post(JOBS, json=body)


@pytest.mark.parametrize("kind", ["number", "text"])
@pytest.mark.parametrize("semi", [POOL, *CLASSIFIERS], ids=["pool", *CLOSED_VIEWS])
def test_what_needs_a_closed_set_of_answers_is_refused_for_open_ones_in_the_words_of_the_runner(
    world: World, kind: str, semi: dict[str, Any]
) -> None:
    with pytest.raises(SpecError) as caught:
        settle(load_spec(semi), Answers(kind))  # type: ignore[arg-type]
    said = caught.value
    response = answered(world, kind, semi)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, said.code, f"{SEMI}.{said.param}")
    assert (error["message"], error["hint"]) == (said.message, said.hint)
    assert f"{kind}s" in error["message"]


@pytest.mark.parametrize("semi", [POOL, *CLASSIFIERS, {"resolve": {"resolver": "vote"}}])
def test_answers_that_may_be_a_closed_set_are_left_to_the_runner(world: World, semi: dict[str, Any]) -> None:
    for kind in ("auto", "label"):
        assert answered(world, kind, semi).status_code == 200
    knn = {"propagation": {"collaborators": [{"name": "v", "view": "knn"}]}, "resolve": {"resolver": "vote"}}
    assert answered(world, "text", knn).status_code == 200


def test_a_fine_tuned_model_is_a_collaborator_while_its_base_is_offered(world: World, configure: Any) -> None:
    made = world.app.post(JOBS, json=world.order()).json()["id"]
    run_to_the_end()
    name = world.app.get(f"{JOBS}/{made}").json()["fine_tuned_model"]
    job = order(world, adapter=name).json()["id"]
    with transaction(read_only=True) as session:
        found = adapter_files(session, job, name)
    assert found
    assert (found.base_lm, list(found.files)) == ("semift-small", ["adapter_model.safetensors"])

    set_job(made, base_lm="gone")
    refused = order(world, adapter=name).json()["error"]
    assert refused["code"] == "model_not_allowed"
    assert "'gone'" in refused["message"]

    world.app.delete(f"/v1/models/{name}")
    assert order(world, adapter=name).json()["error"]["code"] == "model_not_found"
    with transaction(read_only=True) as session:
        kept = adapter_files(session, job, name)
    assert kept
    assert kept.files == found.files, "a job that was accepted before has it all the same"


def test_a_worker_fetches_adapters_and_reads_keys_at_the_last_moment(world: World, tmp_path: Any, monkeypatch: Any) -> None:
    made = world.app.post(JOBS, json=world.order()).json()["id"]
    run_to_the_end()
    name = world.app.get(f"{JOBS}/{made}").json()["fine_tuned_model"]
    named = [{"name": "a", "lm": "tiny"}, {"name": "b", "adapter": name}, {"name": "c", "engine": "big-one"}]
    spec = {"propagation": {"collaborators": named}}
    job = add_job()
    with pytest.raises(NotHere, match="wants its key in 'SOME_KEY'") as caught:
        places(job, spec, tmp_path)
    assert (caught.value.code, caught.value.param) == ("engine_misconfigured", "propagation.collaborators")
    monkeypatch.setenv("SOME_KEY", "sk-1")
    found = places(job, spec, tmp_path)
    assert found["lms"] == {"tiny": "bundled:1", "semift-small": "bundled:3"}
    adapter = found["adapters"][name]
    assert (adapter["base"], adapter["kind"]) == ("semift-small", "full")  # no adapter_config.json: whole weights
    assert (tmp_path / "adapters").is_dir()
    [learned] = adapter["learned"]
    assert (learned["filename"], Path(learned["path"]).read_bytes()) == ("rows.jsonl", labeled())
    assert found["engines"]["big-one"]["api_key"] == "sk-1"
    for nobody in ({"items": 6}, {"propagation": {"collaborators": "auto"}}):
        assert places(job, nobody, tmp_path) == {"lms": {}, "adapters": {}, "engines": {}}
    for gone, code in (({"lm": "odd"}, "model_not_allowed"), ({"adapter": "ft:odd"}, "model_not_found"),
                       ({"engine": "odd"}, "unknown_engine")):  # fmt: skip
        with pytest.raises(NotHere) as caught:
            places(job, {"propagation": {"collaborators": [{"name": "a", **gone}]}}, tmp_path)
        assert caught.value.code == code


# --- the operator's setting --------------------------------------------------------------------------------------------


def test_the_setting_has_the_fields_and_bounds_of_the_engines_endpoint() -> None:
    ours, theirs = (
        {name: (field.default, field.metadata) for name, field in kind.model_fields.items()}
        for kind in (EngineSettings, Endpoint)
    )
    ours.pop("api_key_env"), theirs.pop("api_key")
    assert {**ours, "url": None} == {**theirs, "url": None}


@pytest.mark.parametrize(
    ("engines", "says"),
    [
        ({"big one": BIG}, "an engine's name is"),
        ({"big": {**BIG, "url": "ftp://x"}}, "url"),
        ({"big": {**BIG, "url": "http://user:pw@x/v1"}}, "url"),
        ({"big": {**BIG, "timeout_s": 0}}, "timeout_s"),
        ({"big": {**BIG, "api_key": "sk-secret"}}, "api_key"),
    ],
)
def test_a_wrong_setting_stops_the_server_before_any_job(configure: Any, engines: Any, says: str) -> None:
    configure(engines=json.dumps(engines))
    with pytest.raises(ValidationError, match=says) as caught:
        Settings()
    assert "sk-secret" not in str(caught.value)
    assert "user:pw" not in str(caught.value)


def test_an_engine_may_want_no_key() -> None:
    assert engine_key(EngineSettings(url="http://x/v1", model="m")) is None

"""Whatever arrives, the answer is a success or a refusal in the envelope: never a 5xx, never another shape."""

import contextlib
import copy
import json
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.bodies import parse_object
from api.errors import ApiError
from api.main import create_app
from tests.api.sending import JOBS, JSON, new_world
from tests.keys import AUTH

KEYS = """model training_file method type semi_supervised unlabeled_file propagation k collaborators name selection strategy
theta answer kind labels hyperparameters n_epochs lora metadata seed semi.rounds semi.propagation.k semi.selection semi. suffix
profile rounds test_file integrations from_job fork job round semi.from_job semi.fork"""
VALUES_OF_SPECS = 'semi_supervised supervised percentile label auto repo_head {} [1] NaN {"k":1}'
KEY, WORD = st.sampled_from(KEYS.split()), st.sampled_from(VALUES_OF_SPECS.split())
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORD
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
PLACES = st.lists(KEY, min_size=1, max_size=4)
MUTATIONS = st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=4)


def mutated(order: dict[str, Any], mutations: list[tuple[list[str], Any]]) -> dict[str, Any]:
    body = copy.deepcopy(order)
    for (*way, last), value in mutations:
        here: Any = body
        for step in way:
            here = here.setdefault(step, {}) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here[last] = value
    return body


def check_envelope(status: int, body: Any) -> None:
    assert status < 500, body
    if status >= 400:
        error = body["error"]
        assert error["code"]
        assert error["message"]
        assert error["hint"]


# One database for all examples: what is created in one does not matter to the next.
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_order_breaks_the_server(kind: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(kind)
    world = new_world(TestClient(create_app(), headers=AUTH))
    order = world.order()

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(MUTATIONS)
    def run(mutations: list[tuple[list[str], Any]]) -> None:
        content = json.dumps(mutated(order, mutations), ensure_ascii=True)
        response = world.app.post(JOBS, content=content, headers=JSON)
        check_envelope(response.status_code, response.json())

    run()


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\u d80x1e9-NaInfity\x00\ufeff', max_size=60).map(str.encode))
def test_no_body_breaks_the_reader(raw: bytes) -> None:
    with contextlib.suppress(ApiError):  # anything else is a bug
        parsed = parse_object(raw)
        assert isinstance(parsed, dict)
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_path_or_query_breaks_the_server(kind: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(kind)
    app = TestClient(create_app(), headers=AUTH)
    text = st.text(max_size=20) | st.sampled_from(
        ["\x00", "..", "%", "9" * 30, "-1", "nan", "1e400", "ftjob-0", "1:x", "file-result-Zm9v"]
    )
    routes = [route for route, methods in app.app.openapi()["paths"].items() if "get" in methods]  # type: ignore[attr-defined]
    names = st.sampled_from(["after", "limit", "order", "round", "verdict", "min_mean_nll", "offset", "purpose", "metadata[a]"])

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(routes), text, st.dictionaries(names, text, max_size=3))
    def run(route: str, part: str, query: dict[str, str]) -> None:
        path = route
        for name in ("file_id", "job_id", "query_id", "path", "model"):
            path = path.replace(f"{{{name}}}", quoted(part))
        response = app.get(path, params=query)
        if response.headers["content-type"].startswith("application/json"):
            check_envelope(response.status_code, response.json())
        assert response.status_code < 500

    run()


def quoted(part: str) -> str:
    return quote(part, safe="") or "x"

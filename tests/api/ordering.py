"""Orders of jobs, posted as JSON: accepted, refused, and run to their end by a runner that computes nothing."""

from typing import Any

from tests.api.rows import run_to_the_end
from tests.api.sending import JOBS, World


def post(world: World, **body: Any) -> Any:
    return world.app.post(JOBS, json=body)


def created(world: World, **body: Any) -> dict[str, Any]:
    response = post(world, **body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def refused(world: World, status: int, code: str, **body: Any) -> dict[str, Any]:
    response = post(world, **body)
    error = dict(response.json()["error"])
    assert (response.status_code, error["code"]) == (status, code), error
    assert error["hint"]
    return error


def finished(world: World, **semi: Any) -> dict[str, Any]:
    order = world.order()
    order["method"]["semi_supervised"] |= semi
    job = created(world, **order)
    run_to_the_end()
    return dict(world.app.get(f"{JOBS}/{job['id']}").json())

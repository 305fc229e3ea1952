"""All routes of the service, found in the app itself: what a test holds for every route, a new one cannot forget."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route


def api_routes(app: FastAPI) -> list[APIRoute]:
    """Those of the rooms. Fails when the OpenAPI document knows another number: then a kind of route is not looked into."""
    found = [route for route in _walk(app.routes) if isinstance(route, APIRoute)]
    assert sum(len(route.methods) for route in found) == sum(len(methods) for methods in app.openapi()["paths"].values())
    return found


def other_paths(app: FastAPI) -> set[str]:
    """Of everything that is no route of ours: documents."""
    return {route.path for route in _walk(app.routes) if not isinstance(route, APIRoute)}


def _walk(routes: Iterable[Any]) -> Iterator[Route]:
    for route in routes:
        if hasattr(route, "original_router"):  # an included router
            yield from _walk(route.original_router.routes)
        else:
            assert isinstance(route, Route), f"{route} is neither a route nor a router: mounts and websockets need a key too"
            yield route

"""Another tenant's things are not there: on every route, in every body."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import select

from api.files.results import result_id
from models.db import transaction
from models.tables import Job, UploadPart
from tests.api.every_route import api_routes
from tests.api.rows import labeled
from tests.api.sending import JOBS
from tests.api.two_tenants import Json, Tenant, Two, two_tenants


@pytest.fixture
def two(database: str) -> Two:
    return two_tenants()


class Pair(NamedTuple):
    """An id of Alice's, and one of the same form that is nobody's."""

    foreign: str
    unknown: str


NO_JOB = "ftjob-" + "0" * 27

# What a foreign id is, for every parameter of a path. A route with a parameter that is not here fails the test below.
IDS: dict[str, Callable[[Tenant], list[Pair]]] = {
    "file_id": lambda alice: [
        Pair(alice.labeled, "file-" + "0" * 27),
        Pair(result_id(alice.job, "report.md"), result_id(NO_JOB, "report.md")),
        Pair(alice.job, NO_JOB),
    ],
    "job_id": lambda alice: [Pair(alice.job, NO_JOB), Pair(alice.waiting, NO_JOB), Pair(alice.labeled, "file-" + "0" * 27)],
    "model": lambda alice: [
        Pair(alice.adapter, alice.adapter[:-6] + "000000"),
        Pair(f"{alice.adapter}:ckpt-step-10", f"{alice.adapter[:-6]}000000:ckpt-step-10"),
    ],
    "upload_id": lambda alice: [Pair(alice.upload, "upload_" + "0" * 27), Pair(alice.labeled, "file-" + "0" * 27)],
    "key_id": lambda alice: [Pair(alice.key_id, "key_000000000000")],
    "query_id": lambda _alice: [Pair("u-000011", "u-999999"), Pair("1:u-000011", "1:u-999999")],
    "path": lambda _alice: [Pair("report.md", "no-such.md")],
}
PARENT = {"query_id": "job_id", "path": "job_id"}  # these are found below another id, which may be foreign or one's own


def seen(response: httpx.Response, given: str) -> tuple[Any, ...]:
    """Everything a client can tell two refusals apart by, but for the id it sent itself."""
    headers = {name: response.headers.get(name) for name in ("content-type", "allow", "retry-after", "x-should-retry")}
    body = response.json()
    body["error"].pop("request_id")
    shown = json.dumps(body, sort_keys=True)
    for part in (given, given[:64], given[:100]):
        shown = shown.replace(json.dumps(part)[1:-1], "<id>")
    return response.status_code, headers, shown


def calls(two: Two) -> list[tuple[str, str, str, Pair]]:
    """(method, path with one place left, name of that place, pair of ids to put there): every route with every foreign id."""
    made = []
    for route in api_routes(two.app):
        names = list(route.param_convertors)
        assert set(names) <= set(IDS), f"{route.path}: say in IDS what a foreign id is"
        for method in route.methods:
            for name in names:
                others = {other: two.bob.job for other in names if other != name}
                if PARENT.get(name) is None:  # below a foreign id everything is foreign
                    others |= {child: IDS[child](two.alice)[0].foreign for child in names if PARENT.get(child) == name}
                path = route.path_format
                for other, value in others.items():
                    path = path.replace(f"{{{other}}}", quote(value, safe=""))
                pairs = IDS[name](two.alice)
                if name == "path":
                    pairs = []  # both have the same paths: only the job tells them apart
                made += [(method, path, name, pair) for pair in pairs]
    return made


def everything_of(one: Tenant) -> list[Any]:
    paths = ("/v1/files", JOBS, f"{JOBS}/{one.job}", f"{JOBS}/{one.waiting}/events", "/v1/models", "/v1/keys")
    return [
        [{k: v for k, v in item.items() if k != "last_used_at"} for item in found["data"]] if "data" in found else found
        for found in (one.app.get(path).json() for path in paths)
    ]


def test_a_foreign_id_is_answered_as_one_that_does_not_exist_on_every_route(two: Two) -> None:
    before, tried = everything_of(two.alice), calls(two)
    assert len(tried) > 40
    for method, path, name, pair in tried:
        answers = []
        for given in pair:
            response = two.bob.app.request(method, path.replace(f"{{{name}}}", quote(given, safe="")))
            assert response.status_code == 404, (method, path, given, response.text)
            answers.append(seen(response, given))
        assert answers[0] == answers[1], (method, path, pair)
    assert everything_of(two.alice) == before  # nothing was cancelled, deleted or revoked on the way


def test_the_same_ids_are_found_by_their_owner(two: Two) -> None:
    """Else the test above would pass for the wrong reason."""
    for path in (
        f"/v1/files/{two.alice.labeled}",
        f"/v1/files/{result_id(two.alice.job, 'report.md')}",
        f"{JOBS}/{two.alice.job}",
        f"{JOBS}/{two.alice.waiting}",
        f"/v1/models/{quote(two.alice.adapter, safe='')}",
        f"/v1/keys/{two.alice.key_id}",
        f"{JOBS}/{two.alice.job}/samples/u-000011",
        f"{JOBS}/{two.alice.job}/artifacts/report.md",
    ):
        assert two.alice.app.get(path).status_code == 200, path
    (part,) = set(parts_of(two.alice.upload))
    completed = two.alice.app.post(f"/v1/uploads/{two.alice.upload}/complete", json={"part_ids": [part]})
    assert completed.json()["status"] == "completed"


def parts_of(upload_id: str) -> list[str]:
    with transaction(read_only=True) as session:
        return list(session.scalars(select(UploadPart.id).where(UploadPart.upload_id == upload_id)))


def test_a_foreign_part_is_answered_as_one_that_does_not_exist(two: Two) -> None:
    answers = []
    for part in (*parts_of(two.alice.upload), "part_" + "0" * 27):
        response = two.bob.app.post(f"/v1/uploads/{two.bob.upload}/complete", json={"part_ids": [part]})
        assert response.status_code == 400, response.text
        answers.append(seen(response, part))
    assert answers[0] == answers[1]


def semi(name: str) -> Callable[[Json, str], Json]:
    def put(order: Json, given: str) -> Json:
        order["method"]["semi_supervised"][name] = given
        return order

    return put


# Every field of an order that names something by its id, and every way it may travel.
BODIES: dict[str, tuple[Callable[[Tenant], Pair], Callable[[Json, str], Json]]] = {
    "training_file": (lambda a: Pair(a.labeled, "file-" + "0" * 27), lambda o, given: {**o, "training_file": given}),
    "validation_file": (lambda a: Pair(a.labeled, "file-" + "0" * 27), lambda o, given: {**o, "validation_file": given}),
    "unlabeled_file": (lambda a: Pair(a.unlabeled, "file-" + "0" * 27), semi("unlabeled_file")),
    "test_file": (lambda a: Pair(a.labeled, "file-" + "0" * 27), semi("test_file")),
    "a result as a file": (
        lambda a: Pair(result_id(a.job, "report.md"), result_id(NO_JOB, "report.md")),
        lambda o, given: {**o, "training_file": given},
    ),
    "in metadata": (
        lambda a: Pair(a.unlabeled, "file-" + "0" * 27),
        lambda o, given: {"model": o["model"], "training_file": o["training_file"], "metadata": {"semi.unlabeled_file": given}},
    ),
    "from_job": (lambda a: Pair(a.job, NO_JOB), semi("from_job")),
    "from_job on top": (lambda a: Pair(a.job, NO_JOB), lambda o, given: {**o, "from_job": given}),
    "from_job in metadata": (
        lambda a: Pair(a.job, NO_JOB),
        lambda o, given: {**o, "metadata": {"semi.from_job": given}},
    ),
    "fork": (lambda a: Pair(a.job, NO_JOB), lambda o, given: {"fork": {"job": given}}),
    "model": (lambda a: Pair(a.adapter, a.adapter[:-6] + "000000"), lambda o, given: {**o, "model": given}),
    "collaborator": (
        lambda a: Pair(a.adapter, a.adapter[:-6] + "000000"),
        lambda o, given: semi("propagation")(o, {"collaborators": [{"name": "theirs", "adapter": given}]}),  # type: ignore[arg-type]
    ),
}


def test_a_foreign_id_in_a_body_is_refused_as_one_that_does_not_exist(two: Two, subtests: pytest.Subtests) -> None:
    for field, (ids, put) in BODIES.items():
        with subtests.test(field):
            answers = []
            for given in ids(two.alice):
                response = two.bob.app.post(JOBS, json=put(two.bob.order(), given))
                assert response.status_code == 400, response.text
                answers.append(seen(response, given))
            assert answers[0] == answers[1]
    for field, own in {"in metadata": two.bob.unlabeled, "fork": two.bob.job}.items():  # it was the id that was refused
        response = two.bob.app.post(JOBS, json=BODIES[field][1](two.bob.order(), own))
        assert response.status_code == 200, response.text


def test_every_field_of_an_order_that_holds_an_id_is_tried() -> None:
    from api.fine_tuning.schemas import JobCreate

    document = json.dumps(JobCreate.model_json_schema())
    named = {
        name
        for name in ("training_file", "validation_file", "unlabeled_file", "test_file", "from_job", "fork")
        if name in BODIES
    }
    assert all(f'"{name}"' in document for name in named)
    of_files = {name for name in (c.name for c in Job.__table__.columns) if name.endswith("_file")}
    assert of_files <= named


def test_a_foreign_cursor_is_answered_as_one_that_does_not_exist(two: Two) -> None:
    lists = [route for route in api_routes(two.app) if any(p.name == "after" for p in flat(route.dependant))]
    assert len(lists) >= 5
    for route in lists:
        paths = [route.path_format.replace("{job_id}", one.job) for one in (two.alice, two.bob)]
        foreign = two.alice.app.get(paths[0]).json()["last_id" if "samples" in route.path else "first_id"]
        unknown = {"ftjob": NO_JOB, "file-": "file-" + "0" * 27, "fteve": "ftevent-999999", "ftckp": "ftckpt_none-1"}.get(
            foreign[:5], "1:u-999999"
        )
        answers = [two.bob.app.get(paths[1], params={"after": given}) for given in (foreign, unknown)]
        assert [answer.status_code for answer in answers] == [400, 400], (route.path, foreign)
        assert seen(answers[0], foreign) == seen(answers[1], unknown)


def flat(dependant: Any) -> list[Any]:
    return [*dependant.query_params, *(one for below in dependant.dependencies for one in flat(below))]


def test_lists_hold_ones_own_things_alone(two: Two) -> None:
    for route in api_routes(two.app):
        if route.methods == {"GET"} and not route.param_convertors and route.path.startswith("/v1"):
            theirs, ours = ({item["id"] for item in one.app.get(route.path).json()["data"]} for one in (two.alice, two.bob))
            assert theirs & ours <= {"semift-small"}, route.path
            assert theirs, route.path
    queued = two.bob.app.get(f"{JOBS}/{two.bob.waiting}").json()["queue"]
    assert queued == {"position": 0}  # Alice's, which came earlier, is not counted


def test_uploading_what_another_has_is_like_uploading_what_nobody_has(two: Two) -> None:
    mine = two.alice.app.get(f"/v1/files/{two.alice.labeled}").json()
    same = two.bob.app.post("/v1/files", files={"file": ("a.jsonl", labeled(7))}, data={"purpose": "fine-tune"})
    two.alice.app.post("/v1/files", files={"file": ("a.jsonl", labeled(9))}, data={"purpose": "fine-tune"})
    shared = two.bob.app.post("/v1/files", files={"file": ("a.jsonl", labeled(9))}, data={"purpose": "fine-tune"})
    different = ("id", "bytes", "created_at", "sha256", "contents")
    answers = [{k: v for k, v in response.json().items() if k not in different} for response in (same, shared)]
    assert answers[0] == answers[1]
    assert same.headers.keys() == shared.headers.keys()
    assert shared.json()["id"] not in (mine["id"], same.json()["id"])
    other = two.alice.app.get("/v1/files").json()["data"][0]["id"]
    assert two.bob.app.delete(f"/v1/files/{shared.json()['id']}").status_code == 200
    assert two.alice.app.get(f"/v1/files/{other}/content").content == labeled(9)  # one's deletion is not the other's

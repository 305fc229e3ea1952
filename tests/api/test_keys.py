"""Keys: every way to be wrong is one answer, every route asks for a scope, and nothing but a hash is kept."""

import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.testclient import TestClient
from sqlalchemy import text, update

from api import auth as door
from api.deps import OPEN, Needs
from api.keys.__main__ import main as operate
from api.keys.local import local_key
from api.main import create_app
from models import keys as model_keys
from models.db import transaction
from models.keys import SCOPES, Key, is_secret_of, new_key, parse_key
from models.queries import keys
from models.settings import settings
from models.tables import ApiKey
from tests.api.every_route import api_routes, other_paths
from tests.api.rows import labeled
from tests.keys import AUTH, KEY, add_key, auth
from tests.serving import serving

ROOT = Path(__file__).parents[2]
KEYS = "/v1/keys"


@pytest.fixture
def anyone(database: str) -> Iterator[TestClient]:
    """A client that sends no key."""
    with TestClient(create_app()) as client:
        yield client


def update_key(key: str, **values: Any) -> None:
    found = parse_key(key)
    assert found
    with transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == found.id).values(**values))


def refused(response: Any) -> dict[str, Any]:
    """The refusal without what differs from request to request."""
    error = dict(response.json()["error"])
    assert error.pop("request_id") == response.headers["x-request-id"]
    return {"status": response.status_code, "challenge": response.headers.get("www-authenticate"), **error}


def test_every_wrong_key_gets_the_same_answer(anyone: TestClient) -> None:
    revoked, expired = add_key("default"), add_key("default", expires_in=-1.0)
    update_key(revoked, revoked_at=1.0)
    good, other = parse_key(KEY), parse_key(add_key("default"))
    assert good
    assert other
    wrong: dict[str, Any] = {
        "missing": {},
        "empty": {"authorization": ""},
        "no scheme": {"authorization": KEY},
        "basic": {"authorization": "Basic dXNlcjpwYXNz"},
        "malformed": auth("any"),
        "too long": auth(KEY + "x"),
        "another alphabet": {"authorization": f"Bearer {KEY[:-1]}\u0661".encode()},
        "unknown": auth(str(new_key())),
        "the secret of another": auth(str(Key(good.id, other.secret))),
        "a secret that is wrong at its end": auth(KEY[:-1] + "x"),
        "revoked": auth(revoked),
        "expired": auth(expired),
    }
    answers = {name: refused(anyone.get("/v1/models", headers=headers)) for name, headers in wrong.items()}
    first = answers["missing"]
    assert (first["status"], first["code"], first["challenge"]) == (401, "unauthorized", 'Bearer realm="semift"')
    assert first["hint"]
    assert all(answer == first for answer in answers.values()), answers
    twice = anyone.get("/v1/models", headers=[("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")])
    assert refused(twice) == first
    assert anyone.get("/v1/models", headers=auth(KEY)).status_code == 200
    assert anyone.get("/v1/models", headers={"authorization": f"bearer  {KEY} "}).status_code == 200


def test_a_refused_request_is_not_read_and_changes_nothing(anyone: TestClient) -> None:
    for send in (
        lambda: anyone.post("/v1/files", files={"file": ("l.jsonl", labeled())}, data={"purpose": "fine-tune"}),
        lambda: anyone.post("/v1/fine_tuning/jobs", content=b"no json", headers={"content-type": "application/json"}),
    ):
        assert send().status_code == 401
    assert anyone.get("/v1/files", headers=AUTH).json()["data"] == []


def test_a_missing_scope_is_403_and_named(anyone: TestClient) -> None:
    for held, path, method, wanted in (
        (("read",), "/v1/files", "post", "submit"),
        (("submit",), "/v1/files", "get", "read"),
        (("read", "submit"), KEYS, "get", "admin"),
        (("admin",), "/v1/models", "get", "read"),
    ):
        answer = refused(anyone.request(method, path, headers=auth(add_key("default", held))))
        assert (answer["status"], answer["code"], answer["type"]) == (403, "forbidden", "permission_error")
        assert f"'{wanted}'" in answer["message"]
        assert f'scope="{wanted}"' in answer["challenge"]


def scopes_of(dependant: Dependant) -> list[str]:
    """Each once: a key that several dependencies of a route want to know is asked for once."""
    own = [dependant.call.scope] if isinstance(dependant.call, Needs) else []
    return sorted({*own, *(scope for below in dependant.dependencies for scope in scopes_of(below))})


def test_every_route_says_which_scope_it_needs(sqlite: str) -> None:
    app = create_app()
    asked = {(m, r.path_format): scopes_of(r.dependant) for r in api_routes(app) for m in r.methods}
    closed = {route: scopes for route, scopes in asked.items() if route[1] not in OPEN}
    assert closed
    assert {route for route, scopes in closed.items() if len(scopes) != 1} == set()
    unlike = {
        route: s for route, s in closed.items() if not route[1].startswith(KEYS) and (s == ["read"]) != (route[0] == "GET")
    }
    assert unlike == {}
    assert {route[1] for route, scopes in closed.items() if scopes == ["admin"]} == {KEYS, f"{KEYS}/{{key_id}}"}
    assert other_paths(app) | {path for _, path in asked if path in OPEN} == set(OPEN)
    for route, scopes in closed.items():  # and the document says so too
        operation = app.openapi()["paths"][route[1]][route[0].lower()]
        assert operation["security"] == [{"HTTPBearer": []}], (route, scopes)


def test_health_version_and_documents_are_open(anyone: TestClient) -> None:
    assert {path: anyone.get(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)


def test_an_admin_makes_lists_and_revokes_keys_of_its_own_tenant(anyone: TestClient) -> None:
    admin = auth(add_key("acme", ("admin",)))
    asked = {"name": "ci", "scopes": ["submit", "read"], "expires_in_seconds": 3600}
    made = anyone.post(KEYS, json=asked, headers=admin).json()
    assert (made["object"], made["tenant"], made["scopes"]) == ("api_key", "acme", ["read", "submit"])
    assert made["expires_at"] - made["created_at"] == pytest.approx(3600, abs=1)
    assert anyone.get("/v1/models", headers=auth(made["key"])).status_code == 200
    shown = anyone.get(f"{KEYS}/{made['id']}", headers=admin).json()
    assert shown.pop("last_used_at") == pytest.approx(time.time(), abs=60)
    assert shown == {name: value for name, value in made.items() if name not in ("key", "last_used_at")}
    assert [key["name"] for key in anyone.get(KEYS, headers=admin).json()["data"]] == ["ci", "a test"]
    for _ in range(2):
        assert anyone.delete(f"{KEYS}/{made['id']}", headers=admin).json() == {
            "id": made["id"], "object": "api_key", "deleted": True,
        }  # fmt: skip
    assert anyone.get(f"{KEYS}/{made['id']}", headers=admin).json()["revoked_at"] is not None
    assert anyone.get(f"{KEYS}/key_0123456789ab", headers=admin).status_code == 404  # the default tenant's


def test_a_key_that_cannot_be_made_is_refused_by_field(anyone: TestClient) -> None:
    for body, param in (
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["write"]}, "scopes.0"),
        ({"name": "x", "expires_in_seconds": 1}, "expires_in_seconds"),
        ({"name": "x", "tenant": "other"}, "tenant"),
    ):
        answer = anyone.post(KEYS, json=body, headers=AUTH)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_revocation_takes_effect_when_the_server_looks_again(sqlite: str, configure: Any) -> None:
    configure(key_cache_seconds=0.5)
    key, app = add_key("default"), TestClient(create_app())
    began = time.monotonic()
    assert app.get("/v1/models", headers=auth(key)).status_code == 200
    update_key(key, revoked_at=1.0)
    while (status := app.get("/v1/models", headers=auth(key)).status_code) == 200:
        assert time.monotonic() - began < 120
    assert status == 401
    assert time.monotonic() - began >= 0.5  # within the bound the server remembers: one look-up, not one a request


def test_a_key_ends_at_its_expiry_even_while_it_is_remembered(
    sqlite: str, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(key_cache_seconds=300)
    key, app = add_key("default", expires_in=200.0), TestClient(create_app())
    later, began = 0.0, time.monotonic()
    monkeypatch.setattr(door, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later))
    assert app.get("/v1/models", headers=auth(key)).status_code == 200
    update_key(key, expires_at=1.0)
    assert app.get("/v1/models", headers=auth(key)).status_code == 200, "it is remembered, and nobody looks"
    assert time.monotonic() - began < 200
    later = 200.0  # the key ends here; what is remembered for 300 s would not
    assert app.get("/v1/models", headers=auth(key)).status_code == 401


def test_a_remembered_key_costs_no_query_and_a_wrong_secret_is_still_refused(
    database: str, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(key_cache_seconds=300)
    looks: list[str] = []
    genuine = door.find_key
    monkeypatch.setattr(door, "find_key", lambda session, key_id: looks.append(key_id) or genuine(session, key_id))
    app = TestClient(create_app())
    for _ in range(5):
        assert app.get("/v1/models", headers=AUTH).status_code == 200
        assert app.get("/v1/models", headers=auth(KEY[:-1] + "x")).status_code == 401
    assert looks == ["0123456789ab"]


def test_the_database_holds_no_secret(database: str) -> None:
    key = add_key("acme")
    found = parse_key(key)
    assert found
    with transaction() as session:
        rows = str(session.execute(text("select * from api_keys")).all())
    assert found.id in rows
    assert found.secret not in rows
    assert found.secret not in repr(found)
    assert found.secret_sha256 in rows


def test_secrets_are_compared_in_constant_time_for_unknown_keys_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    monkeypatch.setattr(model_keys.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    key = new_key()
    assert is_secret_of(key, key.secret_sha256)
    assert not is_secret_of(key, new_key().secret_sha256)
    assert not is_secret_of(key, None)
    assert [len(a) == len(b) == 64 for a, b in compared] == [True] * 3


def test_keys_are_random_and_read_back(sqlite: str) -> None:
    made = [new_key() for _ in range(100)]
    assert len({key.id for key in made}) == len({key.secret for key in made}) == 100
    assert all(parse_key(str(key)) == key for key in made)
    for broken in ("", "sk-semift-", str(made[0]).upper(), str(made[0]) + "\n", " " + str(made[0]), "sk-" + "a" * 48):
        assert parse_key(broken) is None


# --- the embedded server's key, and the operator's command ----------------------------------------------------------------


def forget_keys() -> None:
    with transaction() as session:
        session.execute(text("delete from api_keys"))


def test_the_embedded_key_is_made_once_and_only_its_owner_reads_it(database: str) -> None:
    forget_keys()
    first = local_key()
    assert first
    assert first.new
    assert first.path == settings().data_dir.resolve() / "api-key"
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert first.path.read_text() == f"{first.new}\n"
    assert [path.name for path in first.path.parent.glob("api-key*")] == ["api-key"]
    assert local_key() == (first.path, None)  # the next start finds it
    app = TestClient(create_app(), headers=auth(str(first.new)))
    assert app.get("/v1/models").status_code == app.get(KEYS).status_code == 200
    forget_keys()  # another database under the same folder
    again = local_key()
    assert again
    assert again.new not in (None, first.new)


def test_no_key_is_made_where_an_operator_has_made_some(sqlite: str) -> None:
    assert local_key() is None
    assert not (settings().data_dir / "api-key").exists()
    forget_keys()
    add_key("acme", expires_in=-1.0)
    assert local_key() is not None  # that one opens nothing


def test_an_operator_makes_lists_and_revokes_keys(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert operate(["create", "--tenant", "acme", "--scopes", "read,submit", "--expires", "30d", "--name", "ci"]) == 0
    out, err = capsys.readouterr()
    key = parse_key(out.strip())
    assert key
    assert key.secret not in err
    assert "A new tenant 'acme'" in err
    with transaction() as session:
        row = keys.find_key(session, key.id)
    assert row
    assert row["valid_seconds"] == pytest.approx(30 * 86_400, abs=120)
    assert sorted(row["scopes"]) == ["read", "submit"]
    app = TestClient(create_app())
    assert app.get("/v1/models", headers=auth(str(key))).status_code == 200
    assert operate(["list"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"key_{key.id} +acme +read,submit +ci ", shown)
    assert key.secret not in shown
    assert operate(["revoke", f"key_{key.id}"]) == 0
    assert TestClient(create_app()).get("/v1/models", headers=auth(str(key))).status_code == 401
    assert operate(["revoke", "key_000000000000"]) == 1


def test_the_command_makes_the_database_it_finds_none_in(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "api.keys", "create", "--tenant", "acme", "--data-dir", str(tmp_path / "new")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert parse_key(done.stdout.strip())
    assert (tmp_path / "new" / "semift.db").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create",), "--tenant"),
        (("create", "--tenant", "*"), "is no tenant"),
        (("create", "--tenant", "A b"), "is no tenant"),
        (("create", "--tenant", "t", "--scopes", "read,write"), "'write' is no scope"),
        (("create", "--tenant", "t", "--expires", "soon"), "is no duration"),
    ],
)
def test_the_operators_mistakes_are_named(sqlite: str, arguments: tuple[str, ...], says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        operate(list(arguments))
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_stock_client_needs_nothing_but_api_key(database: str) -> None:
    key = add_key("acme")
    with serving() as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            made = client.files.create(file=("rows.jsonl", labeled()), purpose="fine-tune")
            assert client.files.retrieve(made.id).status == "processed"
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as wrong:
                client.files.list()
    assert wrong.value.code == "unauthorized"


def test_scopes_are_those_of_the_words() -> None:
    assert SCOPES == ("read", "submit", "admin")

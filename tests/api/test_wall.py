"""The second wall: what the database itself keeps apart, whatever a query forgets to say."""

from urllib.parse import quote

import pytest
from sqlalchemy import Table, event, inspect, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

from api.health.service import warn_of_no_wall
from models.db import engine, transaction
from models.queries.jobs import insert_job
from models.tables import Base, File, Job
from tests.api.every_route import api_routes
from tests.api.sending import JOBS
from tests.api.two_tenants import Two, two_tenants
from tests.conftest import Configure


@pytest.fixture
def two(database: str) -> Two:
    return two_tenants()


OPEN_TABLES = {"fence", "chores", "alembic_version"}  # a counter, the housekeeper's times, the schema's version: nobody's


def test_every_read_of_the_api_says_whose_rows_it_wants(two: Two) -> None:
    heard: list[str] = []
    event.listen(engine(), "before_cursor_execute", lambda *given: heard.append(given[2]))
    for route in api_routes(two.app):
        if route.methods == {"GET"} and route.path.startswith("/v1"):
            path = route.path_format.replace("{job_id}", two.bob.job).replace("{file_id}", two.bob.labeled)
            path = path.replace("{model}", quote(two.bob.adapter, safe="")).replace("{key_id}", two.bob.key_id)
            path = path.replace("{query_id}", "u-000001").replace("{path}", "report.md")
            assert two.bob.app.get(path).status_code == 200, path
    tables = [name for name in Base.metadata.tables if name not in OPEN_TABLES]
    reads = [one for one in heard if one.startswith("SELECT") and any(f"FROM {table}" in one for table in tables)]
    assert len(reads) > 15
    whole = [one for one in reads if "tenant_id = " not in one.partition("WHERE")[2] and "FROM api_keys" not in one]
    assert whole == []


def rows_seen(tenant_id: str | None) -> dict[str, int]:
    """Rows of every table that a query without any WHERE gets, in a transaction of this tenant; None: of no tenant."""
    found = {}
    with transaction(tenant=tenant_id) if tenant_id else transaction(tenant="") as session:
        for table in Base.metadata.sorted_tables:
            found[table.name] = len(session.execute(select(table)).all())
    return found


def tenants_of(table: Table, tenant_id: str) -> set[str]:
    with transaction(tenant=tenant_id) as session:
        if "tenant_id" in table.c:
            return set(session.scalars(select(table.c.tenant_id)))
        return set(session.scalars(select(Job.tenant_id).where(Job.id.in_(select(table.c.job_id)))))


@pytest.fixture
def walled(postgresql: str) -> Two:
    """On PostgreSQL: SQLite has no row-level security, and one process as its only user."""
    return two_tenants()


def test_a_query_that_forgets_its_tenant_gets_nothing_of_another(walled: Two) -> None:
    with transaction(tenant="bob") as session:
        superuser = session.execute(text("select rolsuper or rolbypassrls from pg_roles where rolname = current_user")).scalar()
    assert superuser is False, "this test would prove nothing"
    everybody, alice, bob, nobody = rows_seen("*"), rows_seen("alice"), rows_seen("bob"), rows_seen(None)
    for table in Base.metadata.sorted_tables:
        name = table.name
        if name in OPEN_TABLES:
            continue
        assert nobody[name] == 0, name
        assert bob[name] + alice[name] <= everybody[name], name
        if name != "tenants":
            assert tenants_of(table, "bob") <= {"bob"}, name
    full = {name for name, count in bob.items() if count}
    assert full >= {"tenants", "api_keys", "files", "jobs", "events", "stages", "chunks", "rounds", "samples", "artifacts"}
    assert full >= {"checkpoints", "outbox", "uploads", "upload_parts"}


def test_the_wall_stands_around_every_table(postgresql: str) -> None:
    with transaction() as session:
        walls = session.execute(
            text(
                "select relname, relrowsecurity and relforcerowsecurity as walled, "
                "(select count(*) from pg_policy where polrelid = c.oid) as policies "
                "from pg_class c where relkind = 'r' and relnamespace = 'public'::regnamespace"
            )
        ).all()
    assert {row.relname for row in walls if (row.walled, row.policies) != (True, 1)} == OPEN_TABLES
    assert {row.relname for row in walls} == {*inspect(engine()).get_table_names()}


def test_a_write_that_forgets_its_tenant_changes_nothing_of_another(walled: Two) -> None:
    with transaction(tenant="bob") as session:
        session.execute(update(File).values(filename="mine now"))
        session.execute(text("delete from events"))
    names = {file["filename"] for file in walled.alice.app.get("/v1/files").json()["data"]}
    assert names == {"labeled.jsonl", "unlabeled.jsonl"}
    assert walled.alice.app.get(f"{JOBS}/{walled.alice.job}/events").json()["data"]
    assert walled.bob.app.get(f"{JOBS}/{walled.bob.job}/events").json()["data"] == []
    with pytest.raises(ProgrammingError, match="row-level security"), transaction(tenant="bob") as session:
        session.execute(update(File).values(tenant_id="alice"))
    with pytest.raises(ProgrammingError, match="row-level security"), transaction(tenant="bob") as session:
        session.execute(text("insert into outbox (job_id, created_at) values (:job, 0)"), {"job": walled.alice.job})


def test_the_setting_ends_with_its_transaction(postgresql: str) -> None:
    with transaction(tenant="bob"):
        pass
    with engine().connect() as connection:  # the same connection, from the pool
        assert connection.execute(text("select current_setting('semift.tenant', true)")).scalar() in ("", None)
        assert connection.execute(text("select count(*) from tenants")).scalar() == 0


def test_a_row_cannot_name_what_is_another_tenants_on_either_database(two: Two) -> None:
    for column in ("training_file", "validation_file", "unlabeled_file", "test_file", "from_job"):
        values = {"base_lm": "m", "method": {}, "spec": {}, "job_metadata": {}, "training_file": two.bob.labeled}
        values |= {column: two.alice.job if column == "from_job" else two.alice.labeled}
        with pytest.raises(IntegrityError), transaction() as session:
            insert_job(session, "bob", **values)


def test_a_role_that_looks_over_the_wall_is_warned_of(
    postgresql: str, postgres_server: str, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_no_wall()
    assert "superuser" not in caplog.text
    server = make_url(postgres_server)
    url = make_url(postgresql).set(username=server.username, password=server.password)
    configure(database_url=url.render_as_string(hide_password=False))
    with transaction() as session:
        if not session.execute(text("select rolsuper from pg_roles where rolname = current_user")).scalar():
            pytest.skip("the tests' server was given to a plain role")
    warn_of_no_wall()
    assert "superuser" in caplog.text

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, inspect, text

from migrations.upgrade import config, upgrade
from models.db import EVERYONE, ONE_TENANT, engine, make_engine, transaction
from models.tables import Base
from tests import servers


def test_upgrade_from_empty_ends_with_exactly_the_tables_of_the_models(database: str) -> None:
    with engine().connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_constraints_and_indexes_are_those_of_the_models(database: str) -> None:
    found = inspect(engine())
    for table in Base.metadata.sorted_tables:
        checks = {c["name"] for c in found.get_check_constraints(table.name)}
        assert checks == {c.name for c in table.constraints if isinstance(c, CheckConstraint)}, table.name


def test_the_default_tenant_is_there(database: str) -> None:
    with transaction(read_only=True) as session:
        assert session.execute(text("select id from tenants")).scalars().all() == ["default"]


def test_many_processes_may_upgrade_at_once(postgres_server: str, tmp_path: Path) -> None:
    with servers.own_database(postgres_server) as postgres:
        for url in (postgres, f"sqlite:///{tmp_path}/fresh.db"):
            engines = [make_engine(url) for _ in range(4)]
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(upgrade, engines))
            with engines[0].connect() as connection:
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(ONE_TENANT, (EVERYONE,))
                assert connection.execute(text("select count(*) from tenants")).scalar() == 1
            for made in engines:
                made.dispose()


def test_downgrade_leaves_nothing(database: str) -> None:
    from alembic import command

    with engine().begin() as connection:
        settled = config()
        settled.attributes["connection"] = connection
        command.downgrade(settled, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]

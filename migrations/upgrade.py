"""Brings the configured database to the newest schema. Safe to call from many processes at once: one works, the rest wait."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from models.db import EVERYONE, ONE_TENANT, engine

HERE = Path(__file__).parent
LOCK = 0x53454D49  # any constant of our own: PostgreSQL advisory locks are numbered


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(HERE))
    made.set_main_option("path_separator", "os")
    return made


def upgrade(target: Engine | None = None) -> None:
    """One transaction: SQLite's is BEGIN IMMEDIATE (models/db.py), PostgreSQL's holds an advisory lock until it ends."""
    with (target or engine()).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            connection.exec_driver_sql(ONE_TENANT, (EVERYONE,))  # a migration of rows is one of everybody's
        settled = config()
        settled.attributes["connection"] = connection
        command.upgrade(settled, "head")


if __name__ == "__main__":
    upgrade()

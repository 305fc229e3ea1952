"""What Alembic runs. `upgrade()` hands its connection over; the `alembic` command gets one of its own here."""

from alembic import context
from sqlalchemy import Connection

from models.db import engine
from models.tables import Base


def migrate(connection: Connection) -> None:
    # SQLite changes tables by copying them (batch mode); its DDL is transactional, as PostgreSQL's is.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with engine().begin() as own:
        migrate(own)

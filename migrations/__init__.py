"""The schema's history, for PostgreSQL and SQLite alike. `python -m migrations.upgrade` brings a database up to date."""

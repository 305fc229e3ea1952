"""Every select, insert and update of the house. A query takes a session and never commits (models/db.py does)."""

"""What faults cost: Semift and a plain Celery task beside each other, and the scorecard (docs/reliability.md)."""

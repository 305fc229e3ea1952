"""The Celery shell around the algorithm. Holds nothing: importing a sibling must never pull in torch."""

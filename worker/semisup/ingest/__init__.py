"""Uploaded files into rows: read (`readers`), understood (`columns`), reported (`validate`), loaded for a job (`load`). No torch."""

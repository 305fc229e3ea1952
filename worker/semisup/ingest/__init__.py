"""Uploaded files into rows: read (`readers`), understood (`columns`), reported (`validate`), loaded (`load`). No torch."""

"""Measurements: `python -m benchmarks NAME FOLDER`. Data sets are given by path; nothing here is needed to run the service."""

"""What the benchmark refuses, in words for its user."""


class BenchError(Exception):
    """A task file, a data file or an argument that cannot be used. The message names it and says what to do."""


class NoData(BenchError):
    """Nothing was given to run on. What earlier runs found can be shown all the same."""

"""A row as a reader gives it, before anyone knows what its columns mean."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    line: int  # where the row starts, from 1; in Parquet the row's number
    values: dict[str, Any]

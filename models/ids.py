"""Names of rows: a prefix the client knows, then the millisecond and 64 random bits, so that ids sort by age."""

import secrets
import time


def new_id(prefix: str) -> str:
    """For example `new_id("file-")`: file-0199… (11 hex digits of milliseconds) and 16 random hex digits."""
    return f"{prefix}{time.time_ns() // 1_000_000:011x}{secrets.token_hex(8)}"

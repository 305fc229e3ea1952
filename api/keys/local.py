"""The embedded server's key: made when the database has none, kept in a file that only its owner can read."""

import os
import secrets
from pathlib import Path
from typing import NamedTuple

from models.db import EVERYONE, transaction
from models.keys import SCOPES, Key, is_secret_of, new_key, parse_key
from models.queries.keys import count_usable, find_key, insert_key
from models.settings import settings

FILE = "api-key"
TENANT = "default"


class LocalKey(NamedTuple):
    path: Path
    new: Key | None  # made just now: shown once


def local_key() -> LocalKey | None:
    """The key whose file lies in the data folder. None where an operator has made keys and there is no such file."""
    path = settings().data_dir.resolve() / FILE
    there = _read(path)
    with transaction(tenant=EVERYONE, read_only=True) as session:
        row = find_key(session, there.id) if there else None
        usable = count_usable(session)
    if there and row and row["revoked_at"] is None and is_secret_of(there, row["secret_sha256"]):
        return LocalKey(path, None)
    if usable:
        return None
    made = new_key()
    _write(path, made)  # before the row: a crash in between leaves a file that opens nothing, and the next start makes another
    with transaction(tenant=EVERYONE) as session:
        insert_key(session, TENANT, made, name="this machine", scopes=SCOPES, expires_in=None)
    return LocalKey(path, made)


def usable_keys() -> int:
    with transaction(tenant=EVERYONE, read_only=True) as session:
        return count_usable(session)


def _read(path: Path) -> Key | None:
    try:
        return parse_key(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def _write(path: Path, key: Key) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{FILE}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(f"{key}\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

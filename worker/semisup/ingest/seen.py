"""Which rows of a file came before, in constant memory: a temporary database that spills to disk."""

import sqlite3
from types import TracebackType
from typing import Self


class Seen:
    """Remembers keys with the line and target of their first row. The database is private, unnamed and gone at the end."""

    def __enter__(self) -> Self:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "" is on disk, but cached
        for statement in (
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "PRAGMA cache_size=-16384",  # KiB
            "CREATE TABLE seen (key BLOB PRIMARY KEY, line INTEGER, target BLOB) WITHOUT ROWID",
            "BEGIN",
        ):
            self._database.execute(statement)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def first(self, key: bytes, line: int, target: bytes) -> tuple[int, bytes] | None:
        """The line and target stored under `key` earlier; None, and these are stored, when it is new."""
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (key, line, target)).rowcount
        if added:
            return None
        found = self._database.execute("SELECT line, target FROM seen WHERE key = ?", (key,)).fetchone()
        return int(found[0]), bytes(found[1])

"""Transactions of a real SQLite database, recorded as the page sets that replication would carry."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from litefs.formats.sqlite_header import page_size_of

Statements = Callable[[sqlite3.Connection], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What one transaction changed: pages in ascending order, and the size in pages afterwards."""

    pages: list[tuple[int, bytes]]
    page_size: int
    commit: int
    state: bytes = field(repr=False)
    """The whole database file afterwards, everything checkpointed."""


class Recorder:
    """A source database in either journal mode; each `run` yields the transaction that SQLite made of it."""

    def __init__(self, path: Path, journal_mode: str = "wal", page_size: int = 4096, auto_vacuum: int = 0) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute(f"PRAGMA page_size={page_size}")
        self.connection.execute(f"PRAGMA auto_vacuum={auto_vacuum}")
        self.connection.execute("PRAGMA synchronous=OFF")
        self._before = b""
        self.first = self.run(lambda connection: connection.execute(f"PRAGMA journal_mode={journal_mode}"))

    def run(self, statements: Statements | str) -> Transaction:
        """Runs statements in one transaction (SQL text: as it is) and returns what changed."""
        if isinstance(statements, str):
            self.connection.executescript(statements)
        else:
            statements(self.connection)
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        after = self.path.read_bytes()
        before, self._before = self._before, after
        if not after:
            return Transaction(pages=[], page_size=0, commit=0, state=b"")
        size = page_size_of(after)
        pages = [
            (offset // size + 1, after[offset : offset + size])
            for offset in range(0, len(after), size)
            if after[offset : offset + size] != before[offset : offset + size]
        ]
        return Transaction(pages=pages, page_size=size, commit=len(after) // size, state=after)

    def close(self) -> None:
        self.connection.close()

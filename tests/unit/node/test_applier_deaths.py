"""The applier killed at each point of an apply: readers find the transaction before or the one after, whole.

On a plain directory, with SQLite as the reader: the mount adds nothing to what is judged here.
"""

import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from litefs.node.journal_applier import JournalApplier
from litefs.node.mounted_database import MountedDatabase

PAGE_SIZE = 4096
ROW_N = 400
"""About a page each: more than one batch of either applier."""

APPLIER = """
import os, signal, sys
from litefs.node.journal_applier import JournalApplier
from litefs.node.mounted_database import MountedDatabase
from litefs.node.wal_writer import WalWriter

directory, way, point = sys.argv[1:]
size = 4096
old, new = (open(path, "rb").read() for path in (directory + "/../before.db", directory + "/../after.db"))
changed = [
    (at // size + 1, new[at : at + size])
    for at in range(0, len(new), size)
    if new[at : at + size] != old[at : at + size]
]

def hook(reached):
    if reached == point:
        os.kill(os.getpid(), signal.SIGKILL)

database = MountedDatabase(directory, "db")
if way == "journal":
    database.open()
    database.lock_exclusive(1.0)
    JournalApplier(database, hook).apply(changed, size, len(new) // size)
    database.unlock()
else:
    writer = WalWriter(database, hook)
    writer.open()
    writer.apply(changed, size, len(new) // size)
    writer.close()
"""

JOURNAL_POINTS = {"journal-written": 1, "pages-written": 1, "before-unlink": 1, "journal-unlinked": 2, "never": 2}
"""What a reader finds after a death there."""

WAL_POINTS = {"wal-header-written": 1, "frames-written": 1, "index-written": 0, "published": 2, "never": 2}
"""The same; 0: all frames are there, and who comes first decides whether they count."""


def generations(path: Path) -> set[int]:
    connection = sqlite3.connect(path)
    try:
        found = {generation for (generation,) in connection.execute("SELECT generation FROM t")}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        connection.close()
    return found


def make(path: Path, generation: int, mode: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, generation INTEGER, body BLOB)")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT OR REPLACE INTO t VALUES (?, ?, zeroblob(3500))", [(row, generation) for row in range(ROW_N)]
    )
    connection.execute("COMMIT")
    connection.close()


def apply(directory: Path, way: str, point: str) -> int:
    command = [sys.executable, "-c", APPLIER, str(directory), way, point]
    return subprocess.run(command, timeout=30, check=False).returncode


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "databases"
    directory.mkdir()
    return directory


def prepare(directory: Path, mode: str) -> None:
    make(directory / "db", 1, mode)
    for name in ("before.db", "after.db"):
        shutil.copy(directory / "db", directory.with_name(name))
    make(directory.with_name("after.db"), 2, mode)


@pytest.mark.parametrize(("way", "mode", "points"), [("journal", "DELETE", JOURNAL_POINTS), ("wal", "WAL", WAL_POINTS)])
def test_readers_never_find_half_a_transaction(directory: Path, way: str, mode: str, points: dict[str, int]) -> None:
    for point, expected in points.items():
        shutil.rmtree(directory)
        directory.mkdir()
        prepare(directory, mode)
        code = apply(directory, way, point)
        assert code == (0 if point == "never" else -signal.SIGKILL), point
        found = generations(directory / "db")
        assert found == {expected} if expected else found in ({1}, {2}), (point, found)


@pytest.mark.parametrize(("way", "mode", "points"), [("journal", "DELETE", JOURNAL_POINTS), ("wal", "WAL", WAL_POINTS)])
def test_the_next_applier_goes_on_where_the_dead_one_stopped(
    directory: Path, way: str, mode: str, points: dict[str, int]
) -> None:
    for point in points:
        shutil.rmtree(directory)
        directory.mkdir()
        prepare(directory, mode)
        apply(directory, way, point)
        assert apply(directory, way, "never") == 0, point
        assert generations(directory / "db") == {2}, point


def test_a_hot_journal_is_played_back(directory: Path) -> None:
    prepare(directory, "DELETE")
    before = (directory / "db").read_bytes()
    apply(directory, "journal", "pages-written")
    assert (directory / "db").read_bytes() != before
    database = MountedDatabase(str(directory), "db")
    JournalApplier(database).roll_back_hot_journal()
    database.close()
    assert (directory / "db").read_bytes() == before
    assert not (directory / "db-journal").exists()

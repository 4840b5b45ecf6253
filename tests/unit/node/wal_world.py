"""A database in WAL mode in a plain directory: its source, our writer, and SQLite's readers in other processes.

The mount adds nothing to what is judged with it. This process never opens the target with SQLite: closing such a
connection's descriptors, or ours, would drop the locks of the other.
"""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from litefs.formats.wal import FRAME_HEADER_SIZE, WAL_HEADER_SIZE
from litefs.formats.wal_index import BACKFILL_OFFSET, INDEX_HEADER_SIZE, WalIndexHeader, frame_region
from litefs.node.mounted_database import MountedDatabase
from litefs.node.wal_writer import WalWriter
from tests.support.sql_client import Rows, SqlProcess
from tests.support.wal_index_search import frames_of, pgno_offset, slot_offsets
from tests.unit.node.recorder import Recorder, Transaction

Hook = Callable[[str], None]


def no_hook(point: str) -> None:
    return


class WalWorld:
    """The target `db` in `directory`, which begins as a copy of the source."""

    def __init__(self, root: Path, page_size: int = 1024, auto_vacuum: int = 0) -> None:
        self.directory = root / "databases"
        self.directory.mkdir()
        self.path = self.directory / "db"
        self.wal_path, self.shm_path = (self.directory / f"db-{suffix}" for suffix in ("wal", "shm"))
        self.source = Recorder(root / "source.db", page_size=page_size, auto_vacuum=auto_vacuum)
        self.last = self.source.run("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, body BLOB)")
        self.path.write_bytes(self.last.state)
        self.random = random.Random(1)
        self.n = 0
        self._writers: list[tuple[WalWriter, MountedDatabase]] = []
        self._processes: list[SqlProcess] = []
        self._fresh: SqlProcess | None = None
        self.children: list[subprocess.Popen[str]] = []
        """Further processes that are to end with the world."""

    # ---- the source ----

    def record(self, statements: "Callable[[sqlite3.Connection], object] | str") -> Transaction:
        """Runs statements at the source and returns what a replica is to apply."""
        self.last = self.source.run(statements)
        return self.last

    def next(self, row_n: int = 3, body_bytes: int = 300) -> Transaction:
        """Returns a transaction that gives every row the next number, after which there are `row_n` of them."""
        self.n += 1

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN")
            connection.execute("DELETE FROM t WHERE id > ?", (row_n,))
            connection.executemany(
                "INSERT OR REPLACE INTO t VALUES (?, ?, ?)",
                [(row, self.n, self.random.randbytes(body_bytes)) for row in range(1, row_n + 1)],
            )
            connection.execute("COMMIT")

        return self.record(change)

    # ---- the target ----

    def writer(self, kind: type[WalWriter] = WalWriter, hook: Hook = no_hook) -> WalWriter:
        """Returns an open writer; it is closed with the world if not before."""
        database = MountedDatabase(str(self.directory), "db")
        writer = kind(database, hook)
        self._writers.append((writer, database))
        writer.open()
        return writer

    def reader(self) -> SqlProcess:
        """Returns an application with one open connection, number 0, that waits for nobody."""
        process = SqlProcess(free=lambda: None)
        self._processes.append(process)
        process.call("open", 0, f"file:{self.path}", 0)
        return process

    def fresh_reader(self) -> SqlProcess:
        """Returns an application whose connection was just opened; the same application each time."""
        if self._fresh is None:
            self._fresh = self.reader()
        self._fresh.call("close", 0)
        self._fresh.call("open", 0, f"file:{self.path}", 0)
        return self._fresh

    def close_writers(self) -> None:
        """Ends all writers in good order."""
        for writer, database in self._writers:
            writer.close()
            database.close()
        self._writers.clear()

    def run_and_die(self, work: Callable[[WalWriter], object], point: str, kind: type[WalWriter] = WalWriter) -> bool:
        """Has another process open a writer and work with it until it reaches `point`, where it is killed.

        Returns:
            Whether it got there; else it ended in good order.
        """

        def hook(reached: str) -> None:
            if reached == point:
                os.kill(os.getpid(), signal.SIGKILL)

        return in_child(lambda: self._work(work, kind, hook)) == -signal.SIGKILL

    def _work(self, work: Callable[[WalWriter], object], kind: type[WalWriter], hook: Hook) -> None:
        database = MountedDatabase(str(self.directory), "db")
        writer = kind(database, hook)
        writer.open()
        work(writer)
        writer.close()
        database.close()

    def checkpointed(self) -> bytes:
        """Has SQLite bring everything into the database file, and returns the file."""
        reader = self.reader()
        assert reader.call("sql", 0, "PRAGMA wal_checkpoint(TRUNCATE)", [])[0][0] == 0, "somebody is in the way"
        assert query(reader, "PRAGMA integrity_check") == [["ok"]]
        reader.close()
        return self.path.read_bytes()

    def void_index(self, content: bytes | None) -> None:
        """Deletes the wal-index, or replaces it, as nobody uses it."""
        self.shm_path.unlink(missing_ok=True)
        if content is not None:
            self.shm_path.write_bytes(content)

    def reset(self) -> None:
        """Puts the target back to the source's present state, without WAL."""
        for path in (self.wal_path, self.shm_path):
            path.unlink(missing_ok=True)
        self.path.write_bytes(self.last.state)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for child in self.children:
            child.kill()
            child.communicate()
        self.close_writers()
        self.source.close()


@contextmanager
def wal_world(root: Path, page_size: int = 1024, auto_vacuum: int = 0) -> Iterator[WalWorld]:
    """A world in an empty directory below `root`, removed at the end."""
    directory = root / f"world-{page_size}-{auto_vacuum}"
    directory.mkdir()
    world = WalWorld(directory, page_size, auto_vacuum)
    try:
        yield world
    finally:
        world.close()
        shutil.rmtree(directory)


def query(process: SqlProcess, text: str) -> Rows:
    return process.call("sql", 0, text, [])


def numbers(process: SqlProcess) -> list[int]:
    """Returns the numbers that rows have: one, if a reader sees a transaction whole."""
    return [n for (n,) in query(process, "SELECT DISTINCT n FROM t") if isinstance(n, int)]


def apply(writer: WalWriter, transaction: Transaction) -> None:
    writer.apply(transaction.pages, transaction.page_size, transaction.commit)


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a forked process. Returns its exit code, or the negative signal that killed it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 70
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def check_index(shm: bytes, wal: bytes) -> None:
    """Checks a wal-index at rest, from its bytes alone (I6).

    Raises:
        FormatError: no valid header.
        AssertionError: a rule is broken.
    """
    first = shm[:INDEX_HEADER_SIZE]
    assert first == shm[INDEX_HEADER_SIZE : 2 * INDEX_HEADER_SIZE], "the header copies differ"
    header = WalIndexHeader.decode(first)
    backfilled = int.from_bytes(shm[BACKFILL_OFFSET : BACKFILL_OFFSET + 4], sys.byteorder)
    assert backfilled <= header.mx_frame, f"nBackfill {backfilled} > mxFrame {header.mx_frame}"
    found: dict[int, list[int]] = {}
    for frame in range(1, header.mx_frame + 1):
        at = WAL_HEADER_SIZE + (frame - 1) * (FRAME_HEADER_SIZE + header.page_size)
        pgno = int.from_bytes(wal[at : at + 4], "big")
        assert wal[at + 8 : at + 16] == header.salts, f"frame {frame} is of another WAL"
        region, index = frame_region(frame)
        offset = pgno_offset(region, index)
        entered = int.from_bytes(shm[offset : offset + 4], sys.byteorder)
        assert entered == pgno, f"frame {frame} is entered under another page"
        found.setdefault(pgno, []).append(frame)
    for pgno, frames in found.items():
        assert frames_of(shm, pgno, header.mx_frame) == frames, f"the hash does not lead to the frames of page {pgno}"
    region_n = frame_region(header.mx_frame)[0] + 1 if header.mx_frame else 0
    used = sum(any(shm[at : at + 2]) for region in range(region_n) for at in slot_offsets(region))
    assert used == header.mx_frame, "slots lead to frames that do not count"

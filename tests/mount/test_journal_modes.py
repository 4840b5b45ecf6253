"""Journal modes, locking modes, synchronous levels and page sizes give the same answers as on ext4."""

import pytest

from tests.support.judge import Judge
from tests.support.scenario import Connection, Session

ROLLBACK_MODES = ("DELETE", "TRUNCATE", "PERSIST")
ALL_MODES = (*ROLLBACK_MODES, "WAL")


def _work(connection: Connection, *, first: int = 1) -> None:
    """A few transactions of different shapes."""
    connection.sql("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body TEXT)")
    for row in range(first, first + 5):
        connection.sql("INSERT INTO t VALUES (?, ?)", row, f"row {row} " * 20)
    connection.sql("BEGIN")
    connection.many("INSERT INTO t VALUES (?, ?)", [[row, "x" * 500] for row in range(first + 100, first + 200)])
    connection.sql("COMMIT")
    connection.sql("UPDATE t SET body = body || '!' WHERE id % 3 = 0")
    connection.sql("DELETE FROM t WHERE id % 7 = 0")
    connection.sql("SELECT count(*), sum(id), sum(length(body)) FROM t")


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL", "FULL", "EXTRA"])
def test_commits_in_every_mode_and_synchronous_level(judge: Judge, mode: str, synchronous: str) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql(f"PRAGMA synchronous = {synchronous}")
        _work(connection)
        session.connect().sql("SELECT id, length(body) FROM t ORDER BY id")

    findings = judge.compare(scenario)
    assert findings["db"].txid >= 9


@pytest.mark.parametrize("mode", ALL_MODES)
def test_exclusive_locking_mode_commits_and_is_left_again(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql("CREATE TABLE first_access (n)")  # in WAL mode it decides where the wal-index lies
        connection.sql("PRAGMA locking_mode = EXCLUSIVE")
        _work(connection)
        other = session.connect()
        assert other.attempt("SELECT count(*) FROM t") == "SQLITE_BUSY"
        connection.sql("PRAGMA locking_mode = NORMAL")
        connection.sql("SELECT count(*) FROM t")
        other.sql("SELECT count(*) FROM t")
        other.sql("INSERT INTO t VALUES (9001, 'after')")
        connection.sql("SELECT body FROM t WHERE id = 9001")

    judge.compare(scenario)


def test_exclusive_wal_without_shared_memory_commits(judge: Judge) -> None:
    """Set before the first access, EXCLUSIVE keeps the wal-index on the heap: no `-shm` and no lock bytes exist."""

    def scenario(session: Session) -> None:
        setup = session.connect()
        setup.sql("PRAGMA journal_mode = WAL")
        setup.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        setup.close()
        connection = session.connect()
        connection.sql("PRAGMA locking_mode = EXCLUSIVE")
        _work(connection)
        assert not session.exists("db-shm")
        connection.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        _work(connection, first=1000)

    judge.compare(scenario)


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_every_page_size_replicates(judge: Judge, page_size: int, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql(f"PRAGMA page_size = {page_size}")
        connection.sql(f"PRAGMA journal_mode = {mode}")
        _work(connection)

    assert judge.compare(scenario)["db"].page_size == page_size


def test_switches_between_all_modes_with_another_connection_open(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        connection, other = session.connect(), session.connect()
        _work(connection)
        row = 1000
        for mode in (mode for before in ALL_MODES for after in ALL_MODES for mode in (before, after)):
            if connection.attempt(f"PRAGMA journal_mode = {mode}") == "SQLITE_BUSY":
                # Leaving WAL needs the database for itself: the other connection goes and comes back.
                other.close()
                connection.sql(f"PRAGMA journal_mode = {mode}")
                other = session.connect()
            row += 1
            connection.sql("INSERT INTO t VALUES (?, 'first')", row)
            row += 1
            other.sql("INSERT INTO t VALUES (?, 'second')", row)
            connection.sql("SELECT count(*) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", ROLLBACK_MODES)
def test_leaves_wal_for_a_rollback_mode_and_returns(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("PRAGMA journal_mode = WAL")
        _work(connection)
        connection.sql(f"PRAGMA journal_mode = {mode}")
        assert not session.exists("db-wal")
        _work(connection, first=1000)
        connection.sql("PRAGMA journal_mode = WAL")
        _work(connection, first=2000)
        connection.sql(f"PRAGMA journal_mode = {mode}")

    judge.compare(scenario)


@pytest.mark.parametrize(("mode", "limit"), [("PERSIST", 0), ("TRUNCATE", 4096)])
def test_journal_size_limit_truncates_the_journal(judge: Judge, mode: str, limit: int) -> None:
    """Without a limit of 0 it is empty on the mount only, in PERSIST mode (docs/limits.md)."""

    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql(f"PRAGMA journal_size_limit = {limit}")
        _work(connection)
        connection.sql("UPDATE t SET body = upper(body)")
        session.size("db-journal")

    judge.compare(scenario)


def test_a_cold_journal_of_persist_mode_does_not_hinder_readers(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        writer = session.connect()
        writer.sql("PRAGMA journal_mode = PERSIST")
        _work(writer)
        for _ in range(5):
            session.connect().sql("SELECT count(*) FROM t")
            writer.sql("UPDATE t SET body = body || '.' WHERE id = 2")

    judge.compare(scenario)

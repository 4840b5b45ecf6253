"""Rollback, savepoints, cache spill, statement journals: what is not committed never becomes a transaction."""

import pytest

from tests.support.judge import Judge
from tests.support.scenario import BareDirectory, Connection, Session

MODES = ("DELETE", "TRUNCATE", "PERSIST", "WAL")


def _filled(session: Session, mode: str, *, rows: int = 50) -> Connection:
    connection = session.connect()
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    connection.sql("BEGIN")
    connection.many("INSERT INTO t VALUES (?, zeroblob(900))", [[row] for row in range(rows)])
    connection.sql("COMMIT")
    return connection


def _position(session: Session) -> str:
    """Returns the position, which only the mount has; not part of the transcript."""
    if isinstance(session.place, BareDirectory):
        return ""
    before = list(session.transcript)
    text = session.run("cat", f"{session.path()}-pos")
    session.transcript[:] = before
    return text


@pytest.mark.parametrize("mode", MODES)
def test_a_rollback_leaves_the_position_where_it_was(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        before = _position(session)
        connection.sql("BEGIN")
        connection.sql("UPDATE t SET body = zeroblob(800)")
        connection.sql("DELETE FROM t WHERE id > 10")
        connection.sql("ROLLBACK")
        connection.sql("SELECT count(*), sum(length(body)) FROM t")
        assert _position(session) == before

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_a_spilled_transaction_rolls_back_without_a_trace(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        before = _position(session)
        connection.sql("PRAGMA cache_size = 5")
        connection.sql("BEGIN")
        connection.many("INSERT INTO t VALUES (?, randomblob(3000))", [[row] for row in range(1000, 1300)])
        connection.sql("UPDATE t SET body = zeroblob(1000) WHERE id < 1000")
        session.connect().attempt("SELECT count(*) FROM t")
        connection.sql("ROLLBACK")
        connection.sql("SELECT count(*), sum(length(body)) FROM t")
        connection.sql("PRAGMA integrity_check")
        assert _position(session) == before

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_a_spilled_transaction_commits_whole(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        connection.sql("PRAGMA cache_size = 5")
        connection.sql("BEGIN")
        connection.many("INSERT INTO t VALUES (?, zeroblob(3000))", [[row] for row in range(1000, 1500)])
        connection.sql("UPDATE t SET body = zeroblob(1000) WHERE id % 2 = 0")
        connection.sql("COMMIT")
        session.connect().sql("SELECT count(*), sum(length(body)) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spill", [True, False], ids=["spilled", "in cache"])
def test_savepoints_are_released_and_rolled_back(judge: Judge, mode: str, spill: bool) -> None:
    # SQLite before 3.50.2 writes WAL frames without valid checksums after a rollback to a savepoint with spilled
    # pages. No recovery happens here, so even those frames count.
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        if spill:
            connection.sql("PRAGMA cache_size = 5")
        connection.sql("BEGIN")
        connection.sql("UPDATE t SET body = zeroblob(100) WHERE id = 1")
        for round_ in range(4):
            connection.sql(f"SAVEPOINT s{round_}")
            first = 1000 * (round_ + 1)
            connection.many("INSERT INTO t VALUES (?, zeroblob(2500))", [[row] for row in range(first, first + 80)])
            connection.sql("SAVEPOINT inner_one")
            connection.sql("DELETE FROM t WHERE id % 3 = 0")
            connection.sql("ROLLBACK TO inner_one" if round_ % 2 else "RELEASE inner_one")
            connection.sql(f"ROLLBACK TO s{round_}" if round_ == 2 else f"RELEASE s{round_}")
        connection.sql("COMMIT")
        session.connect().sql("SELECT count(*), sum(id), sum(length(body)) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_statement_is_undone_inside_its_transaction(judge: Judge, mode: str) -> None:
    """The statement journal is a temporary file elsewhere; its playback writes old pages again."""

    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        connection.sql("PRAGMA cache_size = 5")
        connection.sql("CREATE TABLE u (n INTEGER UNIQUE, body BLOB)")
        connection.many("INSERT INTO u VALUES (?, zeroblob(1500))", [[row] for row in range(100)])
        connection.sql("BEGIN")
        connection.sql("INSERT INTO u VALUES (1000, NULL)")
        assert connection.attempt("UPDATE u SET n = n / 2 + 5000, body = zeroblob(1400)") == "SQLITE_CONSTRAINT_UNIQUE"
        connection.sql("INSERT INTO u VALUES (1001, NULL)")
        connection.sql("COMMIT")
        connection.sql("SELECT count(*), sum(n), sum(length(body)) FROM u")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_a_transaction_that_changes_nothing_is_none(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        before = _position(session)
        for begin in ("BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"):
            connection.sql(begin)
            connection.sql("SELECT count(*) FROM t")
            connection.sql("COMMIT")
        connection.sql("BEGIN IMMEDIATE")
        connection.sql("DELETE FROM t WHERE id = -1")
        connection.sql("COMMIT")
        assert _position(session) == before

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_temporary_tables_do_not_reach_the_mount(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        before = _position(session)
        connection.sql("CREATE TEMP TABLE scratch AS SELECT * FROM t")
        connection.sql("UPDATE scratch SET body = NULL")
        connection.sql("SELECT count(*) FROM scratch")
        assert _position(session) == before

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_one_commit_is_one_transaction_id(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        before = _position(session)
        for row in range(20):
            connection.sql("INSERT INTO t VALUES (?, 'x')", 5000 + row)
        if before:
            first, last = (int(text.partition("/")[0], 16) for text in (before, _position(session)))
            assert last - first == 20

    judge.compare(scenario)

"""What cannot be replicated is refused with an error SQLite reports sensibly, and one log line that says why."""

import pytest

from tests.support.judge import Judge
from tests.support.scenario import Session
from tests.support.sql_client import SqlError
from tests.support.verdict import check_database

REFUSALS = {
    "SQLITE_IOERR_WRITE",
    "SQLITE_FULL",
    "SQLITE_READONLY",
    "SQLITE_IOERR_TRUNCATE",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
}
"""Codes that an application understands as "not written". SQLITE_CORRUPT and SQLITE_NOTADB would not be among them."""


def _log_lines(judge: Judge, before: int) -> list[str]:
    return judge.node.log_text()[before:].splitlines()


@pytest.mark.parametrize("mode", ["MEMORY", "OFF"])
def test_a_journal_mode_without_a_journal_file_is_refused_by_name(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        good = session.connect()
        good.sql("CREATE TABLE t (n)")
        good.sql("INSERT INTO t VALUES (1)")
        bad = session.connect()
        bad.unrecorded(f"PRAGMA journal_mode = {mode}")
        with pytest.raises(SqlError) as refused:
            bad.unrecorded("INSERT INTO t VALUES (2)")
        assert refused.value.name in REFUSALS
        bad.process.kill()
        good.sql("SELECT n FROM t")
        good.sql("INSERT INTO t VALUES (3)")
        good.sql("PRAGMA integrity_check")

    before = len(judge.node.log_text())
    session = judge.play(scenario, judge.node)
    judge.check(session)
    lines = [line for line in _log_lines(judge, before) if "journal_mode" in line]
    assert lines, "no log line names the pragma"
    assert any(session.path().name in line for line in lines), "the log line does not name the database"


@pytest.mark.parametrize("mode", ["MEMORY", "OFF"])
def test_a_new_database_without_a_journal_file_is_refused(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        bad = session.connect()
        bad.unrecorded(f"PRAGMA journal_mode = {mode}")
        with pytest.raises(SqlError) as refused:
            bad.unrecorded("CREATE TABLE t (n)")
        assert refused.value.name in REFUSALS
        bad.process.kill()
        good = session.connect()
        good.sql("CREATE TABLE t (n)")

    judge.check(judge.play(scenario, judge.node))


def test_dot_file_locking_is_refused(judge: Judge) -> None:
    """The lock of `unix-dotfile` is a directory beside the database, which a replica's applier cannot see."""

    def scenario(session: Session) -> None:
        good = session.connect()
        good.sql("CREATE TABLE t (n)")
        bad = session.connect(query="vfs=unix-dotfile")
        with pytest.raises(SqlError) as refused:
            bad.unrecorded("INSERT INTO t VALUES (2)")
        assert not refused.value.name.startswith("SQLITE_CORRUPT")
        good.sql("INSERT INTO t VALUES (3)")
        good.sql("SELECT n FROM t")

    judge.check(judge.play(scenario, judge.node))


def test_a_file_that_is_no_database_does_not_become_one(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        path = session.path("notes.txt")
        script = f"printf 'plain text, longer than a header: %0200d' 7 > '{path}'; echo $?"
        assert session.run("sh", "-c", script).strip() != "0"
        assert "SQLITE_OK" not in session.shell("notes.txt", "CREATE TABLE t (n);")
        session.forget("notes.txt")

    judge.play(scenario, judge.node)


def test_writing_a_database_without_a_journal_is_refused_and_changes_nothing(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("CREATE TABLE t (n)")
        connection.sql("INSERT INTO t VALUES (1)")
        connection.close()
        script = f"dd if=/dev/zero of='{session.path()}' bs=512 count=1 seek=4 conv=notrunc 2>/dev/null; echo $?"
        assert session.run("sh", "-c", script).strip() != "0"
        session.connect().sql("SELECT n FROM t")

    judge.check(judge.play(scenario, judge.node))


def test_truncating_a_database_is_refused(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("CREATE TABLE t (n)")
        for row in range(50):
            connection.sql("INSERT INTO t VALUES (zeroblob(?))", 2000 + row)
        connection.close()
        assert session.run("sh", "-c", f"truncate -s 4096 '{session.path()}' 2>/dev/null; echo $?").strip() != "0"
        session.connect().sql("SELECT count(*) FROM t")

    session = judge.play(scenario, judge.node)
    assert check_database(judge.node, session.path()).page_n > 10

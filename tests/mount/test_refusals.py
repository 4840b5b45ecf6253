"""What cannot be replicated is refused with an error SQLite reports sensibly, and one log line that says why."""

import pytest

from tests.support.judge import Judge
from tests.support.scenario import Session
from tests.support.sql_client import SqlError
from tests.support.verdict import probe

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
def test_a_new_database_without_a_journal_file_is_captured_whole_or_refused(judge: Judge, mode: str) -> None:
    """A file that appears whole is a new database (as with `cp`); what comes after it has to be announced."""

    def scenario(session: Session) -> None:
        bad = session.connect()
        bad.unrecorded(f"PRAGMA journal_mode = {mode}")
        try:
            bad.unrecorded("CREATE TABLE t (n)")
        except SqlError as refused:
            assert refused.name in REFUSALS
        else:
            with pytest.raises(SqlError) as second:
                bad.unrecorded("INSERT INTO t VALUES (1)")
            assert second.value.name in REFUSALS
        bad.process.kill()
        good = session.connect()
        good.sql("CREATE TABLE IF NOT EXISTS t (n)")
        good.sql("INSERT INTO t VALUES (2)")
        good.sql("SELECT n FROM t")

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


def test_a_file_that_is_no_database_harms_nothing_and_can_be_removed(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        good = session.connect()
        good.sql("CREATE TABLE t (n)")
        path = session.path("notes.txt")
        session.run("sh", "-c", f"printf 'plain text, longer than a header: %0200d' 7 > '{path}'; true")
        assert "CREATE" not in session.shell("notes.txt", "CREATE TABLE t (n);\nSELECT sql FROM sqlite_schema;\n")
        session.run("rm", "-f", path)
        assert not session.exists("notes.txt")
        session.forget("notes.txt")
        good.sql("INSERT INTO t VALUES (1)")

    judge.check(judge.play(scenario, judge.node))


@pytest.mark.parametrize(
    "command",
    [
        "dd if=/dev/zero of={path} bs=512 count=1 seek=20 conv=notrunc",
        "truncate -s 4096 {path}",
        "truncate -s +4096 {path}",
    ],
    ids=["write", "shrink", "grow"],
)
def test_a_database_changed_without_a_journal_is_refused_or_its_position_follows(judge: Judge, command: str) -> None:
    """What must not happen is a database whose bytes are not those of its position: replicas would diverge."""

    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("CREATE TABLE t (n)")
        for row in range(50):
            connection.sql("INSERT INTO t VALUES (zeroblob(?))", 2000 + row)
        connection.close()
        session.run("sh", "-c", command.format(path=f"'{session.path()}'") + " 2>/dev/null; true")

    session = judge.play(scenario, judge.node)
    finding = probe(judge.node, session.path())
    assert finding.position is not None
    assert finding.position.partition("/")[2] == finding.checksum

"""The filesystem process killed or restarted: nothing acknowledged is lost, nothing unacknowledged comes back."""

import pytest

from tests.support.judge import Judge
from tests.support.scenario import BareDirectory, Connection, Session
from tests.support.sql_client import SqlError
from tests.support.verdict import check_database

MODES = ("DELETE", "TRUNCATE", "PERSIST", "WAL")


def _filled(session: Session, mode: str) -> Connection:
    connection = session.connect()
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    connection.many("INSERT INTO t VALUES (?, zeroblob(900))", [[row] for row in range(50)])
    return connection


@pytest.mark.parametrize("mode", MODES)
def test_positions_and_bytes_survive_an_orderly_restart(own_judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        _filled(session, mode).close()

    findings = own_judge.compare(scenario)
    own_judge.check_after_restart(findings)
    own_judge.check_after_restart(findings)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL", "FULL"])
def test_a_killed_filesystem_process_loses_no_acknowledged_commit(
    own_judge: Judge, mode: str, synchronous: str
) -> None:
    """SIGKILL of the process is no power cut: what was written reached the kernel, at any `synchronous`."""
    node = own_judge.node
    session = Session(node, "db")
    try:
        connection = _filled(session, mode)
        connection.sql(f"PRAGMA synchronous = {synchronous}")
        for row in range(1000, 1040):
            connection.sql("INSERT INTO t VALUES (?, 'acknowledged')", row)
        connection.sql("PRAGMA cache_size = 3")
        connection.sql("BEGIN")
        connection.sql("UPDATE t SET body = zeroblob(500)")  # spilled, and never committed
        node.kill()
        node.start()
        after = session.connect()
        assert after.sql("SELECT count(*), max(id), sum(length(body)) FROM t") == [
            [90, 1039, 50 * 900 + 40 * len("acknowledged")]
        ]
        finding = check_database(node, session.path())
        after.sql("INSERT INTO t VALUES (5000, 'goes on')")
        assert check_database(node, session.path()).txid == finding.txid + 1
    finally:
        session.close()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_an_old_connection_fails_and_does_not_harm_the_new_mount(own_judge: Judge, mode: str) -> None:
    node = own_judge.node
    session = Session(node, "db")
    try:
        old = _filled(session, mode)
        old.sql("SELECT count(*) FROM t")
        node.kill()
        node.start()
        new = session.connect()
        new.sql("INSERT INTO t VALUES (2000, 'new mount')")
        with pytest.raises(SqlError) as refused:
            old.sql("INSERT INTO t VALUES (3000, 'old mount')")
        assert refused.value.name.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL"))
        old.process.kill()
        assert new.sql("SELECT max(id) FROM t") == [[2000]]
        new.sql("INSERT INTO t VALUES (2001, 'still fine')")
        check_database(node, session.path())
    finally:
        session.close()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_the_filesystem_process_may_die_at_any_moment_of_a_stream_of_commits(own_judge: Judge, mode: str) -> None:
    """Kills at moments spread over a commit; every acknowledged row must be there, and at most one that was not."""
    node = own_judge.node
    session = Session(node, "db")
    try:
        connection = _filled(session, mode)
        acknowledged = 0
        for round_ in range(4):
            row = 10_000 * (round_ + 1)
            for _ in range(10 + 7 * round_):
                row += 1
                connection.sql("INSERT INTO t VALUES (?, 'x')", row)
                acknowledged += 1
            connection.process.send("sql", connection.number, "INSERT INTO t VALUES (?, 'in doubt')", [row + 1])
            node.kill()
            try:
                connection.process.receive()
            except (SqlError, AssertionError):
                pass
            connection.process.kill()
            node.start()
            connection = session.connect()
            ((count, in_doubt),) = connection.sql("SELECT count(*), sum(body = 'in doubt') FROM t WHERE id > 9999")
            assert isinstance(count, int)
            assert count - int(str(in_doubt or 0)) == acknowledged
            connection.sql("DELETE FROM t WHERE body = 'in doubt'")
            check_database(node, session.path())
    finally:
        session.close()


def test_dropped_databases_stay_dropped_after_a_restart(own_judge: Judge) -> None:
    def scenario(session: Session) -> None:
        _filled(session, "DELETE").close()
        session.run("rm", session.path())
        assert not session.exists("db")
        session.forget("db")

    own_judge.compare(scenario)
    own_judge.node.restart()
    session = own_judge.play(lambda each: each.note(str(each.exists("db"))), own_judge.node)
    assert session.transcript[-1] == "False"


def test_ext4_is_an_oracle_that_can_disagree(own_judge: Judge) -> None:
    """The harness itself: a scenario that behaves differently in the two places is noticed."""

    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("CREATE TABLE t (n)")
        connection.sql("SELECT ?", isinstance(session.place, BareDirectory))

    with pytest.raises(AssertionError, match="step 1 differs"):
        own_judge.compare(scenario)

"""Several connections and processes at once: SQLite's locks do on the mount what they do on ext4."""

import pytest

from tests.support.judge import Judge
from tests.support.scenario import Connection, Session

MODES = ("DELETE", "TRUNCATE", "PERSIST", "WAL")


def _table(session: Session, mode: str) -> Connection:
    connection = session.connect()
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
    connection.sql("INSERT INTO t VALUES (0, 'zero')")
    return connection


@pytest.mark.parametrize("mode", MODES)
def test_a_second_writer_is_busy_until_the_first_has_committed(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        first, second = _table(session, mode), session.connect()
        first.sql("BEGIN IMMEDIATE")
        first.sql("INSERT INTO t VALUES (1, 'first')")
        assert second.attempt("BEGIN IMMEDIATE") == "SQLITE_BUSY"
        second.sql("SELECT count(*) FROM t")
        first.sql("COMMIT")
        second.sql("BEGIN IMMEDIATE")
        second.sql("INSERT INTO t VALUES (2, 'second')")
        second.sql("COMMIT")
        first.sql("SELECT count(*) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_busy_timeout_waits_for_the_other_process(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        first, second = _table(session, mode), session.connect(busy_timeout_ms=20_000)
        # The one who commits waits too: the other holds SHARED for a moment at each of its attempts.
        first.sql("PRAGMA busy_timeout = 20000")
        first.sql("BEGIN IMMEDIATE")
        first.sql("INSERT INTO t VALUES (1, 'first')")
        second.process.send("sql", second.number, "INSERT INTO t VALUES (2, 'second')", [])
        first.sql("COMMIT")
        second.process.receive()
        first.sql("SELECT count(*) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST"])
def test_a_reader_holds_up_a_commit_in_rollback_modes(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        writer, reader = _table(session, mode), session.connect()
        writer.many("INSERT INTO t VALUES (?, 'x')", [[row] for row in range(10, 20)])
        reader.start("SELECT id FROM t")
        writer.sql("BEGIN")
        writer.sql("INSERT INTO t VALUES (1, 'held up')")
        assert writer.attempt("COMMIT") == "SQLITE_BUSY"
        reader.finish()
        writer.sql("COMMIT")
        reader.sql("SELECT count(*) FROM t")

    judge.compare(scenario)


def test_a_wal_reader_keeps_its_snapshot_while_others_commit_and_checkpoint(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        writer, reader = _table(session, "WAL"), session.connect()
        reader.sql("BEGIN")
        reader.sql("SELECT count(*) FROM t")
        for row in range(1, 30):
            writer.sql("INSERT INTO t VALUES (?, ?)", row, "y" * 1000)
        for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
            writer.attempt(f"PRAGMA wal_checkpoint({kind})")
            reader.sql("SELECT count(*) FROM t")
        assert reader.attempt("INSERT INTO t VALUES (999, 'late')") == "SQLITE_BUSY_SNAPSHOT"
        reader.sql("COMMIT")
        reader.sql("SELECT count(*) FROM t")
        reader.sql("INSERT INTO t VALUES (999, 'now')")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_sixty_four_connections_of_sixteen_processes_lose_no_row(judge: Judge, mode: str) -> None:
    process_n, connection_n, row_n = 16, 4, 1

    def scenario(session: Session) -> None:
        _table(session, mode)
        crowd = []
        for _ in range(process_n):
            process = session.process()
            crowd.append([session.connect(process=process, busy_timeout_ms=60_000) for _ in range(connection_n)])
        for round_ in range(row_n):
            for place in range(connection_n):
                for number, connections in enumerate(crowd):
                    row = 1 + (round_ * process_n + number) * connection_n + place
                    text = f"INSERT INTO t VALUES ({row}, 'row {row}')"
                    connections[place].process.send("sql", connections[place].number, text, [])
                for connections in crowd:
                    connections[place].process.receive(timeout_s=90)
        counted = session.connect().sql("SELECT count(*), sum(id) FROM t")
        total = process_n * connection_n * row_n
        assert counted == [[total + 1, total * (total + 1) // 2]]

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_readers_of_other_processes_never_see_half_a_transaction(judge: Judge, mode: str) -> None:
    """Each transaction moves an amount between two rows; every reader must find the same sum at any time."""

    def scenario(session: Session) -> None:
        writer = _table(session, mode)
        writer.many("INSERT INTO t VALUES (?, '1000')", [[row] for row in range(1, 101)])
        readers = [session.connect(busy_timeout_ms=20_000) for _ in range(3)]
        writer.unrecorded("PRAGMA busy_timeout = 20000")
        for amount in range(40):
            for reader in readers:
                reader.process.send("sql", reader.number, "SELECT sum(body) FROM t WHERE id > 0", [])
            writer.unrecorded("BEGIN IMMEDIATE")
            writer.unrecorded("UPDATE t SET body = body - ? WHERE id % 2 = 0 AND id > 0", amount)
            writer.unrecorded("UPDATE t SET body = body + ? WHERE id % 2 = 1", amount)
            writer.unrecorded("COMMIT")
            for reader in readers:
                assert reader.process.receive() == [[100_000]]

    judge.compare(scenario)

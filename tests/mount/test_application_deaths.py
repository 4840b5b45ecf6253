"""Applications killed in the middle: hot journals, half frames, super-journals. Whoever comes next sees all or nothing.

Faults are swept: the application dies before its 1st, 2nd, 3rd ... change of a file until the transaction comes
through untouched. At each point the next application must see on the mount what it sees on ext4.
"""

from pathlib import Path

import pytest

from tests.support.crash import crash_environment, crash_library
from tests.support.judge import Judge
from tests.support.scenario import Session
from tests.support.sql_client import SqlError

CALLS_MAX = 120
"""A transaction of the sweeps makes 10 to 70 calls; more means that it never came through."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library that kills the application."""
    return crash_library(tmp_path_factory.mktemp("crash"))


def _survives(session: Session, environment: dict[str, str], statements: list[str]) -> bool:
    """Executes statements in a new application that may die; returns whether it came through."""
    process = session.process(environment=environment)
    try:
        doomed = session.connect(process=process)
        for text in statements:
            process.call("sql", doomed.number, text, [])
    except AssertionError as error:
        assert "SIGKILL" in str(error), error
        return False
    finally:
        process.kill()
    return True


def _sweep(session: Session, library: Path, mode: str, statements: list[str], *, half: bool) -> None:
    """Lets an application die at each call of a transaction, looking at the database after each death."""
    setup = session.connect()
    setup.sql(f"PRAGMA journal_mode = {mode}")
    setup.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    setup.many("INSERT INTO t VALUES (?, zeroblob(900))", [[row] for row in range(30)])
    setup.close()
    for call in range(1, CALLS_MAX):
        environment = crash_environment(library, session.place.mount_dir, call, half=half)
        survived = _survives(session, environment, [f"PRAGMA journal_mode = {mode}", *statements])
        session.note(f"call {call}: survived {survived}")
        reader = session.connect(process=setup.process)
        reader.sql("SELECT count(*), sum(id), sum(length(body)) FROM t")
        reader.sql("PRAGMA integrity_check")
        reader.sql("INSERT INTO t (body) VALUES ('next')")
        reader.close()
        if survived:
            return
    raise AssertionError(f"still dying at call {CALLS_MAX}")


@pytest.mark.parametrize("half", [False, True], ids=["before the call", "in the call"])
@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST", "WAL"])
def test_an_application_may_die_at_any_call_of_a_transaction(
    judge: Judge, library: Path, mode: str, half: bool
) -> None:
    def scenario(session: Session) -> None:
        statements = ["BEGIN", "UPDATE t SET body = zeroblob(10) WHERE id % 9 = 0", "COMMIT"]
        _sweep(session, library, mode, statements, half=half)

    judge.compare(scenario)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_an_application_may_die_at_any_call_of_a_spilled_transaction(judge: Judge, library: Path, mode: str) -> None:
    def scenario(session: Session) -> None:
        statements = [
            "PRAGMA cache_size = 2",
            "BEGIN",
            "UPDATE t SET body = zeroblob(950) WHERE id > 10 AND id < 24",
            "COMMIT",
        ]
        _sweep(session, library, mode, statements, half=False)

    judge.compare(scenario)


@pytest.mark.parametrize("mode", ["DELETE", "PERSIST"])
def test_two_databases_commit_together_or_not_at_all(judge: Judge, library: Path, mode: str) -> None:
    """The super-journal's unlink decides. Killed before it both roll back, after it both are committed."""

    def scenario(session: Session) -> None:
        for name in ("db", "other"):
            setup = session.connect(name)
            setup.sql("CREATE TABLE t (n)")
            setup.sql("INSERT INTO t VALUES (0)")
            setup.close()
        reader_process = session.process()
        for call in range(1, CALLS_MAX):
            environment = crash_environment(library, session.place.mount_dir, call)
            statements = [
                f"ATTACH '{session.path('other')}' AS other",
                f"PRAGMA main.journal_mode = {mode}",
                f"PRAGMA other.journal_mode = {mode}",
                "BEGIN",
                "UPDATE main.t SET n = n + 1",
                "UPDATE other.t SET n = n + 1",
                "COMMIT",
            ]
            survived = _survives(session, environment, statements)
            session.note(f"call {call}: survived {survived}")
            seen = []
            for name in ("db", "other"):
                reader = session.connect(name, process=reader_process)
                seen.append(reader.sql("SELECT n FROM t"))
                reader.sql("PRAGMA integrity_check")
                reader.close()
            assert seen[0] == seen[1], f"call {call}: the transaction was split"
            if survived:
                return
        raise AssertionError(f"still dying at call {CALLS_MAX}")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST", "WAL"])
def test_a_killed_writer_leaves_a_database_that_the_next_one_rolls_back(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        setup = session.connect()
        setup.sql(f"PRAGMA journal_mode = {mode}")
        setup.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        setup.many("INSERT INTO t VALUES (?, zeroblob(900))", [[row] for row in range(200)])
        reader = session.connect()
        reader.sql("SELECT count(*) FROM t")
        writer = session.connect()
        writer.sql(f"PRAGMA journal_mode = {mode}")
        writer.sql("PRAGMA cache_size = 3")
        writer.sql("BEGIN")
        writer.sql("UPDATE t SET body = zeroblob(800)")
        writer.sql("DELETE FROM t WHERE id > 150")
        writer.process.kill()
        reader.sql("SELECT count(*), sum(length(body)) FROM t")
        setup.sql("PRAGMA integrity_check")
        setup.sql("INSERT INTO t VALUES (1000, 'after the death')")
        reader.sql("SELECT count(*), sum(length(body)) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_all_connections_killed_at_once_lose_only_what_was_not_committed(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        process = session.process()
        connections = [session.connect(process=process) for _ in range(3)]
        connections[0].sql(f"PRAGMA journal_mode = {mode}")
        connections[0].sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        for row in range(20):
            connections[row % 3].sql("INSERT INTO t VALUES (?, zeroblob(2000))", row)
        connections[1].start("SELECT id FROM t")
        connections[2].sql("BEGIN IMMEDIATE")
        connections[2].sql("DELETE FROM t")
        process.kill()
        after = session.connect()
        after.sql("SELECT count(*), sum(id) FROM t")
        after.sql("INSERT INTO t VALUES (100, 'after')")

    judge.compare(scenario)


def test_rows_are_refused_with_a_name_of_sqlite(judge: Judge) -> None:
    """The harness itself: an error reaches the test by its extended code, not as a death."""
    session = judge.play(lambda session: None, judge.node)
    process = session.process()
    process.call("open", 1, "file::memory:", 0)
    with pytest.raises(SqlError, match="SQLITE_ERROR"):
        process.call("sql", 1, "SELECT * FROM missing", [])
    process.close()

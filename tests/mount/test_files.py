"""Databases as files: empty, copied in and out, dropped, made again under the same name, opened read-only."""

import sys

import pytest

from tests.support.judge import Judge
from tests.support.scenario import Connection, Session

MODES = ("DELETE", "WAL")


def _filled(session: Session, mode: str, *, rows: int = 40, name: str = "db") -> Connection:
    connection = session.connect(name)
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    connection.many("INSERT INTO t VALUES (?, zeroblob(700))", [[row] for row in range(rows)])
    return connection


def test_a_zero_length_database_can_be_opened_and_used_later(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        session.run("touch", session.path())
        session.size("db")
        first = session.connect()
        first.sql("SELECT count(*) FROM sqlite_schema")
        first.sql("BEGIN")
        first.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        first.sql("ROLLBACK")
        session.size("db")
        first.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        session.connect().sql("SELECT count(*) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_a_dropped_database_is_gone_and_its_name_free(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        _filled(session, mode).close()
        session.run("rm", session.path())
        assert not session.exists("db")
        connection = _filled(session, mode, rows=7)
        connection.sql("SELECT count(*) FROM t")

    findings = judge.compare(scenario)
    assert findings["db"].txid > 10, "a database made again under the same name continues its transaction ids"


@pytest.mark.parametrize("mode", MODES)
def test_a_database_dropped_while_open_does_not_touch_its_successor(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        old = _filled(session, mode)
        old.sql("SELECT count(*) FROM t")
        for suffix in ("", "-wal", "-shm", "-journal"):
            session.run("rm", "-f", f"{session.path()}{suffix}")
        new = _filled(session, mode, rows=5)
        old.process.call("sql", old.number, "PRAGMA busy_timeout = 100", [])
        # What the old connection gets is its own affair (on ext4 it goes on with a file without a name).
        for text in ("SELECT count(*) FROM t", "INSERT INTO t VALUES (8888, 'ghost')"):
            try:
                old.unrecorded(text)
            except Exception as error:  # noqa: BLE001 - any SQLite error will do
                assert "SQLITE_" in str(error), error
        new.sql("SELECT count(*), max(id) FROM t")
        new.sql("INSERT INTO t VALUES (100, 'new')")
        session.connect().sql("SELECT count(*), max(id) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("over", [False, True], ids=["to a new name", "over another"])
@pytest.mark.parametrize("mode", MODES)
def test_a_database_is_moved_by_mv(judge: Judge, mode: str, over: bool) -> None:
    """There is no rename: `mv` copies and removes. Replicas see a new state and a drop."""

    def scenario(session: Session) -> None:
        _filled(session, mode).close()
        if over:
            _filled(session, "DELETE", rows=3, name="target").close()
        session.run("mv", session.path(), session.path("target"))
        assert not session.exists("db")
        session.forget("db")
        moved = session.connect("target")
        moved.sql("SELECT count(*), sum(id) FROM t")
        moved.sql("INSERT INTO t VALUES (9999, 'x')")

    judge.compare(scenario)


@pytest.mark.parametrize("page_size", [512, 8192])
def test_a_database_is_made_again_with_another_page_size(judge: Judge, page_size: int) -> None:
    def scenario(session: Session) -> None:
        _filled(session, "DELETE").close()
        session.run("rm", session.path())
        connection = session.connect()
        connection.sql(f"PRAGMA page_size = {page_size}")
        connection.sql("CREATE TABLE other (n)")
        connection.many("INSERT INTO other VALUES (?)", [[row] for row in range(20)])

    assert judge.compare(scenario)["db"].page_size == page_size


@pytest.mark.parametrize(("before", "after"), [(2048, 1024), (512, 4096), (65536, 512)])
def test_a_database_made_again_with_another_page_size_shrinks_to_its_own_pages(
    judge: Judge, before: int, after: int
) -> None:
    """What of the drop still waits on its way to the disk is counted in pages of the old size.

    One process does it all, so that the drop is still waiting when the new database is filled and shrinks.
    """
    script = (
        "import os, sqlite3, sys\n"
        "for page_size in map(int, sys.argv[2:]):\n"
        "    if os.path.exists(sys.argv[1]): os.unlink(sys.argv[1])\n"
        "    connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "    for text in (f'PRAGMA page_size = {page_size}', 'PRAGMA auto_vacuum = FULL', 'BEGIN',\n"
        "                 'CREATE TABLE t (body BLOB)'):\n"
        "        connection.execute(text)\n"
        "    connection.executemany('INSERT INTO t VALUES (?)', [['x' * page_size]] * 8)\n"
        "    connection.execute('COMMIT')\n"
        "    connection.execute('DELETE FROM t WHERE rowid > 2')\n"
        "    connection.close()\n"
        "    print(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchall())\n"
    )

    def scenario(session: Session) -> None:
        session.run("python3", "-I", "-S", "-c", script, session.path(), str(before), str(after))
        session.connect().sql("SELECT count(*), sum(length(body)) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_a_database_is_copied_out_of_the_mount(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session, mode)
        connection.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        target = judge.bare_dir / f"out-{len(session.transcript)}-{id(session)}"
        session.run("cp", session.path(), target)
        copy = session.connect(str(target))
        copy.sql("SELECT count(*), sum(length(body)) FROM t")
        copy.sql("PRAGMA integrity_check")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("existing", [False, True], ids=["new", "over an existing one"])
def test_a_database_is_copied_into_the_mount(judge: Judge, mode: str, existing: bool) -> None:
    """`cp` opens with O_TRUNC and writes in pieces of any size, without a journal: a change nobody announced.

    A file that appears whole is a new database. Over an existing one the mount may refuse, but must then leave
    the old database as it was.
    """
    source = judge.bare_dir / "source.db"

    def fill(session: Session) -> None:
        connection = session.connect(str(source))
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.many("INSERT INTO t VALUES (?, zeroblob(5000))", [[row] for row in range(300)])
        connection.close()

    def scenario(session: Session) -> None:
        if existing:
            _filled(session, "DELETE", rows=3).close()
        session.run("cp", source, session.path())
        connection = session.connect()
        connection.sql("SELECT count(*), sum(length(body)) FROM t")
        connection.sql("INSERT INTO t VALUES (9999, 'after')")

    judge.play(fill, judge.node)
    judge.compare(scenario)


def test_a_backup_in_the_place_of_an_open_wal_database_is_what_everybody_sees(judge: Judge) -> None:
    """`rm` and `cp` without a look at the WAL: on ext4 SQLite reads the old frames as pages of the new file."""
    source = judge.bare_dir / "backup.db"

    def scenario(session: Session) -> None:
        backup = session.connect(str(source))
        backup.sql("CREATE TABLE restored (id INTEGER PRIMARY KEY)")
        backup.many("INSERT INTO restored VALUES (?)", [[row] for row in range(500)])
        backup.close()
        old = _filled(session, "WAL")
        session.run("rm", session.path())
        session.run("cp", source, session.path())
        new = session.connect()
        assert new.sql("SELECT count(*) FROM restored") == [[500]]
        with pytest.raises(Exception, match="SQLITE_"):
            old.sql("INSERT INTO t VALUES (8888, 'ghost')")
        new.sql("PRAGMA journal_mode = WAL")
        new.sql("INSERT INTO restored VALUES (9999)")
        assert session.connect().sql("SELECT count(*) FROM restored") == [[501]]

    judge.check(judge.play(scenario, judge.node))


def test_a_database_is_filled_under_a_temporary_name_and_renamed(judge: Judge) -> None:
    """As rsync does without --inplace: O_NOFOLLOW, which is SQLite's, and O_EXCL, which is not."""
    script = (
        "import os, shutil, sys\n"
        "source, target = sys.argv[1:]\n"
        "flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW\n"
        "with open(source, 'rb') as old, open(os.open(target + '.0aXy9z', flags, 0o600), 'wb') as new:\n"
        "    shutil.copyfileobj(old, new, 10_000)\n"
        "shutil.move(target + '.0aXy9z', target)\n"
    )
    source = judge.bare_dir / "rsync.db"

    def fill(session: Session) -> None:
        connection = session.connect(str(source))
        connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.many("INSERT INTO t VALUES (?, zeroblob(5000))", [[row] for row in range(30)])
        connection.close()

    def scenario(session: Session) -> None:
        session.run("python3", "-I", "-S", "-c", script, source, session.path())
        connection = session.connect()
        connection.sql("SELECT count(*), sum(length(body)) FROM t")
        connection.sql("INSERT INTO t VALUES (9999, 'after')")

    judge.play(fill, judge.node)
    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pages", [-1, 7], ids=["at once", "in steps"])
def test_the_backup_api_copies_into_the_mount_and_out_of_it(judge: Judge, mode: str, pages: int) -> None:
    def scenario(session: Session) -> None:
        source = _filled(session, mode)
        memory = session.connect(":memory:", process=source.process)
        source.backup(memory, pages=pages)
        memory.sql("INSERT INTO t VALUES (7777, zeroblob(50000))")
        target = session.connect("restored", process=source.process)
        target.sql(f"PRAGMA journal_mode = {mode}")
        target.sql("CREATE TABLE old (n)")
        memory.backup(target, pages=pages)
        target.sql("SELECT count(*), max(id) FROM t")
        session.connect("restored").sql("SELECT count(*), max(id) FROM t")

    assert set(judge.compare(scenario)) == {"db", "restored"}


def test_the_shell_backs_up_and_restores(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        _filled(session, "DELETE").close()
        outside = judge.bare_dir / f"backup-{id(session)}"
        session.run("sqlite3", session.path(), f".backup {outside}")
        session.run("sqlite3", session.path(), "DELETE FROM t; CREATE TABLE later (n)")
        session.run("sqlite3", session.path(), f".restore {outside}")
        session.shell("db", "SELECT count(*), sum(length(body)) FROM t; SELECT name FROM sqlite_schema;")

    judge.compare(scenario)


@pytest.mark.parametrize("mode", MODES)
def test_read_only_and_immutable_opens_read_and_refuse_writes(judge: Judge, mode: str) -> None:
    def scenario(session: Session) -> None:
        writer = _filled(session, mode)
        reader = session.connect(query="mode=ro")
        reader.sql("SELECT count(*) FROM t")
        assert reader.attempt("INSERT INTO t VALUES (1000, NULL)") == "SQLITE_READONLY"
        writer.sql("INSERT INTO t VALUES (1001, NULL)")
        reader.sql("SELECT count(*) FROM t")
        writer.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        immutable = session.connect(query="immutable=1")
        immutable.sql("SELECT count(*) FROM t")
        assert immutable.attempt("INSERT INTO t VALUES (1002, NULL)") == "SQLITE_READONLY"

    judge.compare(scenario)


def test_names_without_a_suffix_and_with_odd_bytes_are_databases(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        for name in ("app.sqlite3", "data", "test.db2", "with blank", "ünï-code", "a-wal-b"):
            connection = session.connect(name)
            connection.sql("CREATE TABLE t (n)")
            connection.sql("INSERT INTO t VALUES (1)")
            connection.sql("PRAGMA journal_mode = WAL")
            connection.sql("INSERT INTO t VALUES (2)")

    assert len(judge.compare(scenario)) == 6


def test_a_listing_skips_no_name_while_others_go(judge: Judge) -> None:
    """The kernel asks for a directory piece by piece."""
    remove_while_listing = """
import os, sys
for number in range(300):
    open(f"{sys.argv[1]}-listed-{number:03}", "x").close()
directory = os.path.dirname(sys.argv[1])
for entry in os.scandir(directory):
    if "-listed-" in entry.name and not entry.name.endswith("-pos"):
        os.unlink(entry.path)
print(sum("-listed-" in name for name in os.listdir(directory)), "left")
"""

    def scenario(session: Session) -> None:
        assert session.run(sys.executable, "-c", remove_while_listing, session.path()) == "0 left\n"

    judge.compare(scenario)


def test_sqlite_may_keep_its_temporary_files_in_the_mount(judge: Judge) -> None:
    """It does where the current directory is all that it may write to, as in a container with a read-only root."""
    statements = (
        "CREATE TABLE t AS SELECT hex(randomblob(400)) AS body FROM generate_series(1, 3000); PRAGMA cache_size = 10;"
        "CREATE TEMP TABLE u AS SELECT body FROM t ORDER BY 1; SELECT count(*) FROM u; VACUUM; PRAGMA integrity_check;"
    )

    def scenario(session: Session) -> None:
        session.run("sh", "-c", f"SQLITE_TMPDIR='{session.place.mount_dir}' sqlite3 '{session.path()}' '{statements}'")

    judge.compare(scenario)

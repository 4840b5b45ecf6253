"""The WAL's life: checkpoints, restarts, last close, recovery of a stale wal-index, frames written over."""

import sqlite3
from pathlib import Path

import pytest

from tests.support.judge import Judge
from tests.support.scenario import Connection, Session


def _filled(session: Session, *, rows: int = 50) -> Connection:
    connection = session.connect()
    connection.sql("PRAGMA journal_mode = WAL")
    connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    connection.many("INSERT INTO t VALUES (?, zeroblob(1200))", [[row] for row in range(rows)])
    return connection


@pytest.mark.parametrize("kind", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_checkpoints_of_every_kind_are_no_transactions(judge: Judge, kind: str) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session)
        other = session.connect()
        for round_ in range(4):
            connection.sql(f"PRAGMA wal_checkpoint({kind})")
            other.sql("SELECT count(*), sum(length(body)) FROM t")
            connection.sql("UPDATE t SET body = zeroblob(?) WHERE id % 5 = 0", 500 + round_)
            other.sql("SELECT count(*), sum(length(body)) FROM t")
        session.size("db-wal")

    judge.compare(scenario)


def test_the_wal_starts_over_after_a_complete_checkpoint(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session)
        connection.sql("PRAGMA wal_autocheckpoint = 10")
        other = session.connect()
        for round_ in range(60):
            connection.sql("UPDATE t SET body = zeroblob(?) WHERE id < 6", 1000 + round_)
            if round_ % 7 == 0:
                other.sql("SELECT sum(length(body)) FROM t")
        session.size("db-wal")

    judge.compare(scenario)


def test_the_last_close_removes_wal_and_shared_memory(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        connection, other = _filled(session), session.connect()
        other.sql("SELECT count(*) FROM t")
        connection.close()
        assert session.exists("db-wal")
        other.close()
        assert not session.exists("db-wal")
        assert not session.exists("db-shm")
        session.connect().sql("SELECT count(*) FROM t")

    judge.compare(scenario)


def test_a_persistent_wal_outlives_the_last_close(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        _filled(session).close()
        session.shell("db", ".filectrl persist_wal 1\nINSERT INTO t VALUES (1000, 'x');\n")
        assert session.exists("db-wal")
        again = session.connect()
        again.sql("SELECT count(*) FROM t")
        again.sql("INSERT INTO t VALUES (1001, 'y')")

    judge.compare(scenario)


def test_a_wal_index_found_stale_is_rebuilt(judge: Judge) -> None:
    """Every connection is killed; the next one finds shared memory nobody vouches for and recovers from the WAL."""

    def scenario(session: Session) -> None:
        connection = _filled(session)
        connection.process.kill()
        after = session.connect()
        after.sql("SELECT count(*), sum(length(body)) FROM t")
        after.sql("INSERT INTO t VALUES (1000, 'after recovery')")
        after.process.kill()
        session.connect().sql("SELECT count(*) FROM t")

    judge.compare(scenario)


def test_an_abandoned_tail_of_frames_is_written_over(judge: Judge) -> None:
    """A spilled transaction is rolled back, the next commit lies over its frames; then the WAL is recovered."""

    def scenario(session: Session) -> None:
        connection = _filled(session)
        connection.sql("PRAGMA cache_size = 3")
        for round_ in range(4):
            connection.sql("BEGIN")
            connection.sql("UPDATE t SET body = zeroblob(1300)")
            connection.sql("ROLLBACK")
            connection.sql("UPDATE t SET body = zeroblob(?) WHERE id = 1", 100 + round_)
        connection.process.kill()
        session.connect().sql("SELECT count(*), sum(length(body)) FROM t")

    judge.compare(scenario)


def test_a_wal_rewound_behind_committed_frames_keeps_position_and_pages_together(judge: Judge) -> None:
    """SQLite before 3.50.2 writes frames without checksums after ROLLBACK TO over pages that were spilled twice.

    A recovery stops at them and goes on from an older state: acknowledged commits are lost, on ext4 too. What the
    mount owes is that the position still tells the pages SQLite shows, so that replicas do not diverge.
    """
    survivors: list[object] = []

    def scenario(session: Session) -> None:
        connection = _filled(session, rows=100)
        connection.sql("PRAGMA cache_size = 3")
        connection.sql("PRAGMA wal_autocheckpoint = 0")
        connection.sql("BEGIN")
        connection.sql("UPDATE t SET body = zeroblob(1300) WHERE id < 5")
        connection.sql("SAVEPOINT s")
        for _ in range(2):
            connection.sql("INSERT OR REPLACE INTO t SELECT id + 200, zeroblob(1150) FROM t WHERE id < 100")
        connection.sql("ROLLBACK TO s")
        connection.sql("UPDATE t SET body = zeroblob(900) WHERE id > 90")
        connection.sql("COMMIT")
        for row in range(1000, 1010):
            connection.sql("INSERT INTO t VALUES (?, 'acknowledged')", row)
        connection.process.kill()
        after = session.connect()
        survivors.append(after.sql("SELECT count(*), sum(length(body)) FROM t")[0][0])
        after.sql("UPDATE t SET body = 'goes on from there' WHERE id = 5")
        after.sql("INSERT INTO t VALUES (2000, 'and further')")
        after.process.kill()
        session.connect().sql("SELECT count(*), sum(length(body)) FROM t")

    judge.compare(scenario)
    assert survivors == [100 if sqlite3.sqlite_version_info < (3, 50, 2) else 110] * 2


@pytest.mark.parametrize("size", ["4294967296", "268435456", "0"])
def test_databases_mapped_into_memory_are_read_and_written(judge: Judge, size: str) -> None:
    def scenario(session: Session) -> None:
        connection, other = session.connect(), session.connect()
        for each in (connection, other):
            each.unrecorded(f"PRAGMA mmap_size = {size}")  # the library's build may bound what is answered
        connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        for mode in ("DELETE", "WAL", "TRUNCATE"):
            connection.sql(f"PRAGMA journal_mode = {mode}")
            for row in range(20):
                connection.sql("INSERT INTO t (body) VALUES (zeroblob(?))", 3000 + row)
                other.sql("SELECT count(*), sum(length(body)) FROM t")
            connection.sql("DELETE FROM t WHERE id % 2 = 0")
            connection.sql("VACUUM")
            other.sql("SELECT count(*), sum(length(body)) FROM t")
            other.close()
            other = session.connect()
            other.unrecorded(f"PRAGMA mmap_size = {size}")

    judge.compare(scenario)


def test_a_commit_frame_written_to_the_end_of_its_sector_is_one_transaction(judge: Judge) -> None:
    """With `psow=0` SQLite repeats the commit frame up to the sector's end."""

    def scenario(session: Session) -> None:
        connection = session.connect(query="psow=0")
        connection.sql("PRAGMA journal_mode = WAL")
        connection.sql("PRAGMA synchronous = FULL")
        connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        for row in range(10):
            connection.sql("INSERT INTO t VALUES (?)", row)

    assert judge.compare(scenario)["db"].txid <= 12


def test_the_wal_copied_aside_and_back_is_recovered(judge: Judge) -> None:
    def scenario(session: Session) -> None:
        connection = _filled(session)
        saved = Path(str(judge.bare_dir)) / f"saved-{id(session)}"
        session.run("cp", f"{session.path()}-wal", saved)
        connection.sql("SELECT count(*) FROM t")
        connection.process.kill()
        session.run("cp", saved, f"{session.path()}-wal")
        session.connect().sql("SELECT count(*), sum(length(body)) FROM t")

    judge.compare(scenario)


@pytest.mark.parametrize("garbage", ["header", "frames", "whole"])
def test_a_wal_of_garbage_is_ignored_and_costs_nothing(judge: Judge, garbage: str) -> None:
    """What a crash or a file copy may leave: sizes and page numbers in it must not be believed."""
    script = (
        "import os, random, struct, sys\n"
        "path, kind = sys.argv[1], sys.argv[2]\n"
        "rng = random.Random(7)\n"
        "wal = bytearray(open(path, 'rb').read())\n"
        "size = 24 + 4096\n"
        "if kind != 'frames': wal[:32] = rng.randbytes(32)\n"
        "for start in range(32, len(wal), size) if kind != 'header' else ():\n"
        "    wal[start:start + 24] = struct.pack('>II', 0x7fffff00, 0x7fffff00) + rng.randbytes(16)\n"
        "with open(path, 'r+b', buffering=0) as file:\n"
        "    for start in [0, *range(32, len(wal), size)]:\n"
        "        end = 32 if start == 0 else start + size\n"
        "        os.pwrite(file.fileno(), wal[start:start + 24] if start else wal[:32], start)\n"
        "        if start: os.pwrite(file.fileno(), wal[start + 24:end], start + 24)\n"
    )

    def scenario(session: Session) -> None:
        connection = _filled(session)
        connection.sql("PRAGMA wal_checkpoint(RESTART)")
        connection.sql("INSERT INTO t VALUES (1000, 'starts the WAL again')")
        connection.sql("PRAGMA wal_checkpoint(PASSIVE)")
        connection.process.kill()
        session.run("python3", "-I", "-S", "-c", script, f"{session.path()}-wal", garbage)
        session.connect().sql("SELECT count(*), sum(length(body)) FROM t")
        session.connect().sql("INSERT INTO t VALUES (1001, 'goes on')")

    judge.compare(scenario)

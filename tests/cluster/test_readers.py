"""Applications of the replica: what they see, whom they stop, what they are refused."""

import threading
from pathlib import Path

import pytest

from tests.cluster.test_replication import filled
from tests.support import children
from tests.support.cluster import Cluster, await_true, succeeds
from tests.support.scenario import Connection
from tests.support.sql_client import SqlError

ROLLBACK_MODES = ("DELETE", "TRUNCATE", "PERSIST")
MODES = (*ROLLBACK_MODES, "WAL")


def _refusal(connection: Connection, statement: str) -> tuple[str, str]:
    with pytest.raises(SqlError) as refused:
        connection.unrecorded(statement)
    return refused.value.name, refused.value.text


def test_a_long_read_in_wal_mode_keeps_its_snapshot_and_stops_nobody(cluster: Cluster) -> None:
    writer = filled(cluster, "WAL")
    cluster.sync()
    long_reader = cluster.readers.connect()
    long_reader.sql("BEGIN")
    seen = long_reader.sql("SELECT count(*), sum(length(body)) FROM t")
    short_reader = cluster.readers.connect()
    for row in range(1000, 1050):
        writer.sql("INSERT INTO t VALUES (?, randomblob(3000))", row)
        writer.sql("UPDATE t SET body = randomblob(?) WHERE id < 5", row)
        cluster.sync()
        assert short_reader.sql("SELECT max(id) FROM t") == [[row]]
        assert long_reader.sql("SELECT count(*), sum(length(body)) FROM t") == seen
    long_reader.sql("COMMIT")
    assert long_reader.sql("SELECT max(id) FROM t") == [[1049]]
    cluster.check()


def test_the_replicas_wal_stays_short_with_readers_that_come_and_go(cluster: Cluster) -> None:
    writer = filled(cluster, "WAL")
    cluster.sync()
    reader = cluster.readers.connect()
    for round_ in range(40):
        writer.sql("UPDATE t SET body = randomblob(9000)")
        if round_ % 4 == 0:
            cluster.sync()
            reader.sql("SELECT sum(length(body)) FROM t")
    cluster.sync()
    assert cluster.readers.size("db-wal") < 12 << 20, "40 transactions of 60 pages would make 10 MB"
    cluster.check()


@pytest.mark.parametrize("mode", ROLLBACK_MODES)
def test_a_reader_in_rollback_mode_stops_the_replica_until_it_ends(cluster: Cluster, mode: str) -> None:
    writer = filled(cluster, mode)
    cluster.sync()
    before = cluster.replica_position()
    reader = cluster.readers.connect()
    reader.sql("BEGIN")
    assert reader.sql("SELECT count(*) FROM t") == [[30]]
    writer.sql("INSERT INTO t VALUES (1000, 'x')")
    writer.sql("INSERT INTO t VALUES (1001, 'y')")
    named = f"process {reader.process.pid} (python"
    await_true(lambda: named in cluster.replica.log_text(), "the log names the reader")
    assert cluster.replica_position() == before
    assert reader.sql("SELECT count(*) FROM t") == [[30]]
    assert int(cluster.replica.read(".lag")) > 500, "what waits for the reader shows in the lag"
    reader.sql("COMMIT")
    cluster.sync()
    assert reader.sql("SELECT count(*) FROM t") == [[32]]
    await_true(lambda: int(cluster.replica.read(".lag")) < 2500, "the lag goes back")
    cluster.check()


def test_one_database_that_waits_for_its_reader_does_not_stop_another(cluster: Cluster) -> None:
    writer, other = filled(cluster, "DELETE"), filled(cluster, "DELETE", name="other")
    cluster.sync()
    cluster.sync("other")
    reader = cluster.readers.connect()
    reader.sql("BEGIN")
    reader.sql("SELECT count(*) FROM t")
    for row in range(1000, 1010):
        writer.sql("INSERT INTO t VALUES (?, 'x')", row)
        other.sql("INSERT INTO t VALUES (?, 'x')", row)
    cluster.sync("other")
    assert cluster.readers.connect("other").sql("SELECT max(id) FROM t") == [[1009]]
    reader.sql("COMMIT")
    cluster.check()
    cluster.check("other")


def test_a_long_wait_for_a_reader_costs_disk_and_not_memory(cluster: Cluster) -> None:
    """40 MB wait for the reader; what is kept in memory of them is bounded, the rest is read back from the log."""
    writer = filled(cluster, "DELETE")
    cluster.sync()
    reader = cluster.readers.connect()
    reader.sql("BEGIN")
    reader.sql("SELECT count(*) FROM t")
    node_pid = cluster.replica.child_pid("litefs.cli.node_process")
    before = _resident_mb(node_pid)
    for row in range(1000, 1080):
        writer.sql("INSERT INTO t VALUES (?, randomblob(500000))", row)
    log = cluster.replica.data_dir / "dbs" / cluster.readers.path().name / "log"
    txid = int(cluster.position().partition("/")[0], 16)
    await_true(lambda: sum(file.stat().st_size for file in log.iterdir()) > 38 << 20, f"{txid} images in the log")
    assert _resident_mb(node_pid) - before < 30
    reader.sql("COMMIT")
    cluster.check()


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no VmRSS")


@pytest.mark.parametrize("mode", MODES)
def test_writes_on_the_replica_are_refused_in_sqlites_own_words(cluster: Cluster, mode: str) -> None:
    writer = filled(cluster, mode)
    cluster.sync()
    reader = cluster.readers.connect()
    for statement in ("INSERT INTO t VALUES (100, 'x')", "CREATE TABLE u (n)", "DELETE FROM t", "VACUUM"):
        name, text = _refusal(reader, statement)
        assert name.startswith("SQLITE_READONLY"), (statement, name)
        assert text == "attempt to write a readonly database"
    if mode == "WAL":
        assert _refusal(reader, "BEGIN IMMEDIATE")[0].startswith("SQLITE_READONLY")
    assert reader.sql("SELECT count(*) FROM t") == [[30]]
    writer.sql("INSERT INTO t VALUES (1000, 'x')")
    cluster.sync()
    assert reader.sql("SELECT count(*) FROM t") == [[31]]
    cluster.check()


def test_an_application_that_died_in_a_refused_transaction_leaves_nothing_behind(cluster: Cluster) -> None:
    writer = filled(cluster, "DELETE")
    cluster.sync()
    reader = cluster.readers.connect()
    reader.sql("BEGIN IMMEDIATE")
    _refusal(reader, "INSERT INTO t VALUES (100, 'x')")
    writer.sql("INSERT INTO t VALUES (1000, 'x')")
    reader.process.kill()
    cluster.check()


def test_what_changes_nothing_is_no_transaction_on_the_replica(cluster: Cluster) -> None:
    filled(cluster, "WAL")
    before = cluster.sync()
    reader = cluster.readers.connect()
    reader.sql("CREATE TEMP TABLE scratch AS SELECT * FROM t")
    reader.sql("UPDATE scratch SET body = NULL")
    reader.sql("PRAGMA optimize")
    reader.attempt("PRAGMA wal_checkpoint(TRUNCATE)")
    reader.close()
    assert cluster.replica_position() == before
    cluster.check()


def test_files_of_the_replica_cannot_be_removed_or_written_by_plain_calls(cluster: Cluster) -> None:
    filled(cluster, "WAL")
    cluster.sync()
    path = cluster.readers.path()
    for command in (f"rm -f {path}", f"rm -f {path}-wal", f"echo x > {path}", f"echo x >> {path}-wal"):
        assert children.run(["sh", "-c", command], free=cluster.replica.free).code != 0, command
    cluster.check()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_readers_in_tight_loops_never_see_half_a_transaction(cluster: Cluster, mode: str) -> None:
    """Every transaction keeps the sum of two tables at zero; each reader compares within one statement."""
    writer = filled(cluster, mode)
    writer.sql("CREATE TABLE plus (n INTEGER, pad BLOB)")
    writer.sql("CREATE TABLE minus (n INTEGER, pad BLOB)")
    writer.sql("INSERT INTO plus VALUES (0, zeroblob(9000))")
    writer.sql("INSERT INTO minus VALUES (0, zeroblob(9000))")
    cluster.sync()
    readers = [cluster.readers.connect(busy_timeout_ms=5000) for _ in range(3)]
    failures: list[str] = []
    done = threading.Event()

    def read(connection: Connection) -> None:
        newest = 0
        while not done.is_set():
            ((plus, minus),) = connection.unrecorded("SELECT (SELECT n FROM plus), (SELECT n FROM minus)")
            if not isinstance(plus, int) or plus != -int(str(minus)) or plus < newest:
                failures.append(f"{plus} and {minus} after {newest}")
                return
            newest = plus

    threads = [threading.Thread(target=read, args=[reader]) for reader in readers]
    for thread in threads:
        thread.start()
    for number in range(1, 150):
        writer.unrecorded("BEGIN")
        writer.unrecorded("UPDATE plus SET n = ?, pad = randomblob(9000)", number)
        writer.unrecorded("UPDATE minus SET n = ?, pad = randomblob(9000)", -number)
        writer.unrecorded("COMMIT")
    cluster.sync()
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert readers[0].sql("SELECT n FROM plus") == [[149]]
    cluster.check()


@pytest.mark.parametrize("mode", MODES)
def test_readers_with_mapped_databases_and_the_sqlite_shell_see_every_commit(cluster: Cluster, mode: str) -> None:
    writer = filled(cluster, mode)
    cluster.sync()
    reader = cluster.readers.connect(busy_timeout_ms=5000)
    reader.unrecorded("PRAGMA mmap_size = 268435456")
    for row in range(1000, 1010):
        writer.sql("INSERT INTO t VALUES (?, randomblob(8000))", row)
        if row % 3 == 0:
            writer.sql("DELETE FROM t WHERE id < ?", row - 3)
            writer.sql("VACUUM")
        cluster.sync()
        assert reader.sql("SELECT max(id), count(*) FROM t") == writer.sql("SELECT max(id), count(*) FROM t")
    assert cluster.readers.shell("db", ".timeout 5000\nSELECT max(id) FROM t;\n") == "1009\n"
    cluster.check()


def test_a_reader_killed_in_a_read_transaction_lets_the_replica_go_on(cluster: Cluster) -> None:
    writer = filled(cluster, "DELETE")
    cluster.sync()
    reader = cluster.readers.connect()
    reader.sql("BEGIN")
    reader.sql("SELECT count(*) FROM t")
    writer.sql("INSERT INTO t VALUES (1000, 'x')")
    reader.process.kill()
    cluster.check()


def test_opening_and_closing_while_images_arrive_never_harms_the_replica(cluster: Cluster) -> None:
    """Each last close tries to checkpoint and to remove the WAL, which the replica refuses without a word."""
    writer = filled(cluster, "WAL")
    cluster.sync()
    process = cluster.readers.process()
    for row in range(1000, 1040):
        writer.sql("INSERT INTO t VALUES (?, 'x')", row)
        reader = cluster.readers.connect(process=process, busy_timeout_ms=5000)
        assert succeeds(lambda reader=reader: reader.sql("SELECT count(*) FROM t"))  # type: ignore[misc]
        reader.close()
    cluster.check()

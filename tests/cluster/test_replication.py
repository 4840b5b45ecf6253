"""What applications of the primary do arrives on the replica: the same position, the same bytes."""

import secrets

import pytest

from tests.support import children
from tests.support.cluster import Cluster, await_true
from tests.support.scenario import Connection

MODES = ("DELETE", "TRUNCATE", "PERSIST", "WAL")


def filled(cluster: Cluster, mode: str, *, name: str = "db", rows: int = 30) -> Connection:
    connection = cluster.writers.connect(name)
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    connection.sql("BEGIN")
    connection.many("INSERT INTO t VALUES (?, zeroblob(900))", [[row] for row in range(rows)])
    connection.sql("COMMIT")
    return connection


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_sees_each_commit_of_a_connection_that_stays_open(cluster: Cluster, mode: str) -> None:
    writer = filled(cluster, mode)
    cluster.sync()
    reader = cluster.readers.connect(busy_timeout_ms=5000)
    for row in range(1000, 1030):
        writer.sql("INSERT INTO t VALUES (?, 'x')", row)
        cluster.sync()
        assert reader.sql("SELECT max(id), count(*) FROM t") == [[row, 30 + row - 999]]
    cluster.check()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size_mb", [3, 12])
def test_large_transactions_arrive_whole(cluster: Cluster, mode: str, size_mb: int) -> None:
    """Random bytes do not compress, so these images take the way through the spool directory."""
    writer = filled(cluster, mode)
    writer.sql("PRAGMA cache_size = 50")
    cluster.sync()
    reader = cluster.readers.connect(busy_timeout_ms=20_000)
    writer.sql("BEGIN")
    writer.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO t SELECT i, randomblob(100000) FROM n",
        1000 + size_mb * 10,
    )
    writer.sql("UPDATE t SET body = zeroblob(800) WHERE id < 1000")
    writer.sql("COMMIT")
    cluster.sync()
    assert reader.sql("SELECT count(*), sum(length(body) = 100000) FROM t") == [[31 + size_mb * 10, 1 + size_mb * 10]]
    cluster.check()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_transaction_of_zeros_expands_in_bounded_memory(cluster: Cluster, mode: str) -> None:
    """LZ4 makes 200 KB of it: one message, and far more pages than are kept for the applier."""
    writer = filled(cluster, mode)
    writer.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1400)"
        " INSERT INTO t SELECT i, zeroblob(100000) FROM n"
    )
    cluster.check()


@pytest.mark.parametrize("mode", MODES)
def test_vacuum_and_growth_arrive(cluster: Cluster, mode: str) -> None:
    writer = filled(cluster, mode, rows=600)
    cluster.sync()
    reader = cluster.readers.connect(busy_timeout_ms=5000)
    for round_ in range(3):
        writer.sql("DELETE FROM t WHERE id % 3 <> ?", round_)
        writer.sql("VACUUM")
        cluster.sync()
        pages = writer.sql("PRAGMA page_count")
        assert reader.sql("PRAGMA page_count") == pages
        writer.sql("INSERT INTO t SELECT id + 10000 * ?, randomblob(1200) FROM t", round_ + 1)
        cluster.sync()
        assert reader.sql("SELECT count(*) FROM t") == writer.sql("SELECT count(*) FROM t")
    cluster.check()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["FULL", "INCREMENTAL"])
def test_auto_vacuum_shrinks_the_replica(cluster: Cluster, mode: str, kind: str) -> None:
    writer = cluster.writers.connect()
    writer.sql(f"PRAGMA auto_vacuum = {kind}")
    writer.sql(f"PRAGMA journal_mode = {mode}")
    writer.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    writer.many("INSERT INTO t VALUES (?, zeroblob(3000))", [[row] for row in range(100)])
    cluster.sync()
    reader = cluster.readers.connect(busy_timeout_ms=5000)
    for limit in (70, 40, 5):
        writer.sql("DELETE FROM t WHERE id > ?", limit)
        writer.sql("PRAGMA incremental_vacuum")
        cluster.sync()
        assert reader.sql("PRAGMA page_count") == writer.sql("PRAGMA page_count")
        assert reader.sql("SELECT count(*) FROM t") == [[limit + 1]]
    cluster.check()


def test_every_change_of_journal_mode_arrives_with_connections_open_on_both_nodes(cluster: Cluster) -> None:
    writer = filled(cluster, "DELETE")
    cluster.sync()
    row = 1000
    for mode in [mode for before in MODES for after in MODES for mode in (before, after)]:
        # Leaving WAL needs the replica's database for itself, too: this reader goes, as applications do.
        reader = cluster.readers.connect(busy_timeout_ms=5000)
        assert reader.sql("SELECT count(*) FROM t") == writer.sql("SELECT count(*) FROM t")
        reader.close()
        writer.sql(f"PRAGMA journal_mode = {mode}")
        row += 1
        writer.sql("INSERT INTO t VALUES (?, 'x')", row)
        cluster.sync()
        reader = cluster.readers.connect(busy_timeout_ms=5000)
        assert reader.sql("SELECT max(id) FROM t") == [[row]]
        reader.close()
    cluster.check()


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST"])
def test_an_idle_reader_follows_its_database_into_wal_mode(cluster: Cluster, mode: str) -> None:
    writer = filled(cluster, mode)
    cluster.sync()
    reader = cluster.readers.connect(busy_timeout_ms=5000)
    assert reader.sql("SELECT count(*) FROM t") == [[30]]
    writer.sql("PRAGMA journal_mode = WAL")
    for row in range(1000, 1005):
        writer.sql("INSERT INTO t VALUES (?, 'x')", row)
        cluster.sync()
        assert reader.sql("SELECT max(id) FROM t") == [[row]]
    cluster.check()


def test_an_idle_wal_reader_that_stays_is_left_behind_when_the_primary_leaves_wal_mode(cluster: Cluster) -> None:
    """The old connection holds SHARED, so the replica takes a snapshot after a while; the connection gets an error."""
    writer = filled(cluster, "WAL")
    cluster.sync()
    reader = cluster.readers.connect()
    assert reader.sql("SELECT count(*) FROM t") == [[30]]
    writer.sql("PRAGMA journal_mode = DELETE")
    writer.sql("INSERT INTO t VALUES (1000, 'x')")
    cluster.sync(timeout_s=40)
    assert reader.attempt("SELECT count(*) FROM t").startswith("SQLITE_IOERR"), "and never the old state"
    assert cluster.readers.connect().sql("SELECT count(*) FROM t") == [[31]]
    cluster.check()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_dropped_database_goes_and_comes_again(cluster: Cluster, mode: str) -> None:
    for round_ in range(3):
        filled(cluster, mode, rows=10 + round_).close()
        before = cluster.sync()
        assert cluster.readers.connect().sql("SELECT count(*) FROM t") == [[10 + round_]]
        cluster.check()
        for session in (cluster.writers, cluster.readers):
            session.close()
        cluster.writers.run("rm", cluster.writers.path())
        await_true(lambda: not cluster.readers.exists("db"), f"gone behind {before}")
    filled(cluster, mode).close()
    cluster.check()


@pytest.mark.parametrize(("before", "after"), [(4096, 512), (512, 8192)])
def test_a_database_made_anew_with_another_page_size_arrives(cluster: Cluster, before: int, after: int) -> None:
    for page_size in (before, after):
        writer = cluster.writers.connect()
        writer.sql(f"PRAGMA page_size = {page_size}")
        writer.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        writer.many("INSERT INTO t VALUES (?, zeroblob(700))", [[row] for row in range(50)])
        writer.close()
        assert cluster.check().page_size == page_size
        if page_size == before:
            cluster.writers.run("rm", cluster.writers.path())


def test_a_page_size_changed_by_vacuum_arrives(cluster: Cluster) -> None:
    writer = filled(cluster, "DELETE")
    cluster.sync()
    reader = cluster.readers.connect()
    reader.sql("SELECT count(*) FROM t")
    writer.sql("PRAGMA page_size = 1024")
    writer.sql("VACUUM")
    writer.sql("INSERT INTO t VALUES (1000, 'after')")
    assert cluster.check().page_size == 1024
    reader.close()
    assert cluster.readers.connect().sql("SELECT max(id) FROM t") == [[1000]]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_commits_over_several_databases_arrive(cluster: Cluster, mode: str) -> None:
    for name in ("one", "two", "three"):
        filled(cluster, mode, name=name).close()
    writer = cluster.writers.connect("one")
    for name in ("two", "three"):
        writer.sql(f"ATTACH '{cluster.writers.path(name)}' AS {name}")
    for round_ in range(10):
        writer.sql("BEGIN")
        for schema in ("main", "two", "three"):
            writer.sql(f"INSERT INTO {schema}.t VALUES (?, 'x')", 1000 + round_)
        writer.sql("COMMIT" if round_ % 3 else "ROLLBACK")
    writer.close()
    for name in ("one", "two", "three"):
        cluster.check(name)
        assert cluster.readers.connect(name).sql("SELECT count(*) FROM t WHERE id >= 1000") == [[6]]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_file_copied_into_the_mount_arrives(cluster: Cluster, mode: str, tmp_path: object) -> None:
    source = f"{tmp_path}/source.db"
    for round_ in range(2):
        script = (
            f"PRAGMA journal_mode = {mode}; CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB);"
            f"INSERT INTO t SELECT value + {1000 * round_}, randomblob(500) FROM generate_series(1, 300);"
            "PRAGMA wal_checkpoint(TRUNCATE);"
        )
        children.checked(["sqlite3", source, script], free=cluster.primary.free)
        cluster.writers.run("cp", source, cluster.writers.path())
        assert cluster.writers.connect().sql("SELECT count(*) FROM t") == [[300 * (round_ + 1)]]
        cluster.check()
        cluster.writers.close()
    cluster.writers.connect().sql("INSERT INTO t VALUES (9999, 'goes on')")
    cluster.check()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_an_imported_file_arrives(cluster: Cluster, mode: str, tmp_path: object) -> None:
    source = f"{tmp_path}/source.db"
    script = (
        f"PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);"
        "INSERT INTO t SELECT value, randomblob(500) FROM generate_series(1, 3000);"
    )
    children.checked(["sqlite3", source, script], free=cluster.primary.free)
    filled(cluster, mode).close()
    cluster.sync()
    url = f"http://127.0.0.1:{cluster.primary.port}/import?name={cluster.writers.path().name}"
    children.checked(["curl", "-fsS", "--data-binary", f"@{source}", url], free=cluster.primary.free)
    assert cluster.writers.connect().sql("SELECT count(*) FROM t") == [[3000]]
    cluster.writers.connect().sql("INSERT INTO t VALUES (?, ?)", 9999, secrets.token_hex(8))
    cluster.check()


@pytest.mark.parametrize("page_size", [512, 1024, 16384, 65536])
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_every_page_size_arrives(cluster: Cluster, mode: str, page_size: int) -> None:
    writer = cluster.writers.connect()
    writer.sql(f"PRAGMA page_size = {page_size}")
    writer.sql(f"PRAGMA journal_mode = {mode}")
    writer.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    for row in range(20):
        writer.sql("INSERT INTO t VALUES (?, randomblob(3000))", row)
    writer.sql("DELETE FROM t WHERE id % 2")
    assert cluster.check().page_size == page_size

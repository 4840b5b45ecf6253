"""Replicas that come late, come back, or bring another history: they end where the primary is, and readers notice.

Two branches are made from the same data directory: a database that was copied aside goes on differently on each, with
as many transactions and the same schema cookie. Nothing in the pages tells a connection that it is on the wrong one.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_replication import filled
from tests.support import children
from tests.support.cluster import Cluster, await_true, follower_of
from tests.support.litefs_node import LitefsNode, Pair
from tests.support.scenario import Connection, Session
from tests.support.verdict import check_database, check_replica

QUICK = '  reconnect-delay: "50ms"\n'
BRANCHES = ("shorter", "as long", "longer")


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("rows", [50, 4000], ids=["small", "replacement"])
def test_a_late_replica_takes_a_snapshot_while_the_primary_writes(
    cluster: Cluster, tmp_path: Path, mode: str, rows: int
) -> None:
    writer = filled(cluster, mode, rows=rows)
    late = follower_of(cluster.primary, tmp_path / "late", extra=QUICK)
    try:
        late.start()
        for row in range(100_000, 100_100):
            writer.sql("INSERT INTO t VALUES (?, randomblob(2000))", row)
        finding = cluster.check()
        check_replica(late, late.mount_dir / cluster.writers.path().name, finding)
        writer.sql("UPDATE t SET body = 'x' WHERE id = 7")
        finding = cluster.check()
        check_replica(late, late.mount_dir / cluster.writers.path().name, finding)
    finally:
        late.stop()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_replica_that_was_away_goes_on_from_its_log(own_cluster: Cluster, mode: str) -> None:
    writer = filled(own_cluster, mode)
    own_cluster.sync()
    own_cluster.replica.stop()
    for row in range(1000, 1060):
        writer.sql("INSERT INTO t VALUES (?, randomblob(900))", row)
    own_cluster.replica.start()
    own_cluster.check()
    assert "taken over" not in own_cluster.replica.log_text()


@pytest.mark.parametrize(("mode", "kept"), [("DELETE", "1MB"), ("WAL", "1MB"), ("DELETE", "1GB")])
def test_a_replica_that_was_away_for_longer_than_the_retention_takes_a_snapshot_beyond_the_bound(
    tmp_path: Path, mode: str, kept: str
) -> None:
    pair = Pair(tmp_path)
    text = pair.primary.config_path.read_text()
    short = (
        f'data:\n  replica-retention-size: "{kept}"\n'
        '  retention: "100ms"\n  retention-monitor-interval: "50ms"\n  segment-size: "64KB"\n'
    )
    pair.primary.config_path.write_text(
        text.replace("data:\n", short).replace("http:\n", 'http:\n  snapshot-timeout: "60s"\n')
    )
    pair.start()
    cluster = Cluster(pair, "rejoin")
    try:
        writer = filled(cluster, mode)
        missed = int(cluster.sync().partition("/")[0], 16) + 1
        pair.replica.stop()
        _outlive_the_retention(writer, mode)
        if kept == "1GB":
            assert _oldest_image(cluster) <= missed
            # What the replica never had nobody keeps; it is looked after behind the first database.
            other = filled(cluster, mode, name="other")
            await_true(lambda: _has_begun_behind(2, cluster, other, mode, "other"), "old segments go")
            assert _oldest_image(cluster) <= missed
        else:
            await_true(lambda: _has_begun_behind(missed, cluster, writer, mode), "the old segments go")
        pair.replica.start()
        cluster.check()
        taken_over = f"{cluster.writers.path().name}: snapshot at"
        assert (taken_over in pair.replica.log_text()) == (kept == "1MB")
    finally:
        cluster.close()
        pair.stop()


def _outlive_the_retention(writer: Connection, mode: str) -> None:
    """Commits more than 32 MB of log: S moves, if that was noted before the first of them."""
    for _ in range(40):
        writer.sql("INSERT OR REPLACE INTO t VALUES (abs(random() % 1000) + 1000, randomblob(1000000))")
    if mode == "WAL":
        writer.sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _has_begun_behind(txid: int, cluster: Cluster, writer: Connection, mode: str, name: str = "db") -> bool:
    """Commits still more, and says where the log begins."""
    _outlive_the_retention(writer, mode)
    return _oldest_image(cluster, name) > txid


def _oldest_image(cluster: Cluster, name: str = "db") -> int:
    log = cluster.primary.data_dir / "dbs" / cluster.writers.path(name).name / "log"
    return min(int(file.stem, 16) for file in log.glob("*.ltxlog"))


class Branches:
    """A primary, and a replica whose data directory went another way."""

    def __init__(self, root: Path, mode: str, branch: str) -> None:
        """Makes both data directories; the replica is not started."""
        self.pair = Pair(root)
        self.cluster = Cluster(self.pair, "branch")
        primary, replica = self.pair.primary, self.pair.replica
        primary.start()
        filled(self.cluster, mode, rows=200).close()
        await_true((primary.data_dir / "clusterid").exists, "the cluster has an id")
        primary.stop()
        shutil.copytree(primary.data_dir, replica.data_dir, dirs_exist_ok=True)
        (replica.data_dir / "id").write_text("00000000000000AB\n")
        # The other branch is written by a primary of its own on the replica's data directory.
        other = LitefsNode(root / "other")
        other.config_path.write_text(other.config_path.read_text().replace(str(other.data_dir), str(replica.data_dir)))
        other.start()
        session = Session(other, "branch")
        try:
            self._write(session, "beta", mode, {"shorter": 5, "as long": 10, "longer": 25}[branch])
        finally:
            session.close()
            other.stop()
        primary.start()
        self._write(self.cluster.writers, "alpha", mode, 10)
        self.cluster.writers.close()

    @staticmethod
    def _write(session: Session, name: str, mode: str, transaction_n: int) -> None:
        connection = session.connect()
        connection.sql(f"PRAGMA journal_mode = {mode}")
        connection.sql(f"CREATE TABLE {name} (n INTEGER, body TEXT)")
        for number in range(transaction_n - 1):
            connection.sql(f"INSERT INTO {name} VALUES (?, ?)", number, name * 20)
        connection.close()

    def stop(self) -> None:
        """Ends applications and nodes."""
        self.cluster.close()
        self.pair.stop()


@pytest.fixture(params=[(mode, branch) for mode in ("DELETE", "WAL") for branch in BRANCHES], ids="-".join)
def branches(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Branches]:
    mode, branch = request.param
    made = Branches(tmp_path, mode, branch)
    yield made
    made.stop()
    for node in (made.pair.primary, made.pair.replica):
        request.node.add_report_section("teardown", f"log of the {node.root.name}", node.log_tail())


def test_a_replica_with_another_history_takes_the_primarys(branches: Branches, tmp_path: Path) -> None:
    branches.pair.replica.start()
    branches.cluster.check()
    reader = branches.cluster.readers.connect()
    assert reader.sql("SELECT count(*), min(body) FROM alpha") == [[9, "alpha" * 20]]
    assert reader.attempt("SELECT * FROM beta") == "SQLITE_ERROR"
    (kept,) = (branches.pair.replica.data_dir / "dbs-aside").iterdir()
    assert f"kept in {kept}" in branches.pair.replica.log_text()
    assert _beta_rows(kept, LitefsNode(tmp_path / "rescue")) >= 4


def _beta_rows(kept: Path, node: LitefsNode) -> int:
    """Returns what a node of its own reads from a state that was kept."""
    shutil.copytree(kept, node.data_dir / "dbs" / "kept.db")
    node.start()
    session = Session(node, "kept.db")
    try:
        ((count,),) = session.connect(f"{node.mount_dir}/kept.db").sql("SELECT count(*) FROM beta")
        return int(str(count))
    finally:
        session.close()
        node.stop()


def test_connections_opened_before_another_history_came_fail_and_reopen(branches: Branches) -> None:
    """The primary is away while they are opened, so they have pages, schema and statements of the other branch.

    One has mapped the database: a page that is not there has no errno, only SIGBUS.
    """
    cluster, pair = branches.cluster, branches.pair
    pair.primary.stop()
    pair.replica.start()
    process = cluster.readers.process()
    idle = cluster.readers.connect(process=process)
    reading = cluster.readers.connect(process=process)
    mapped = cluster.readers.connect(process=process)
    mapped.sql("PRAGMA mmap_size = 268435456")
    for connection in (idle, reading, mapped):
        assert connection.sql("SELECT min(body) FROM beta") == [["beta" * 20]]
    reading.sql("BEGIN")
    reading.sql("SELECT count(*) FROM beta")
    pair.primary.start()
    cluster.sync()
    reading.attempt("COMMIT")  # what its transaction had read it may keep until here
    for connection in (idle, reading, mapped):
        assert _fails_for_good(connection), "an old connection must not go on"
    fresh = cluster.readers.connect(process=process)
    assert fresh.sql("SELECT min(body) FROM alpha") == [["alpha" * 20]]
    cluster.check()
    cluster.writers.connect().sql("INSERT INTO alpha VALUES (1000, 'goes on')")
    cluster.sync()
    assert fresh.sql("SELECT max(n) FROM alpha") == [[1000]]


def _fails_for_good(connection: Connection) -> bool:
    # "alpha" is unknown to its schema, which is an answer that needs no page: no such table.
    outcomes = [connection.attempt(f"SELECT count(*) FROM {table}") for table in ("beta", "alpha", "beta", "t")]
    return all(outcome.startswith("SQLITE_IOERR") for outcome in (outcomes[0], *outcomes[2:]))


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_connections_of_the_primary_notice_an_import(own_cluster: Cluster, mode: str, tmp_path: Path) -> None:
    writer = filled(own_cluster, mode)
    own_cluster.sync()
    reader = own_cluster.readers.connect()
    assert reader.sql("SELECT count(*) FROM t") == writer.sql("SELECT count(*) FROM t")
    source = tmp_path / "source.db"
    script = f"PRAGMA journal_mode={mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);"
    script += "INSERT INTO t VALUES (1, 'i');"
    children.checked(["sqlite3", source, script], free=own_cluster.primary.free)
    url = f"http://127.0.0.1:{own_cluster.primary.port}/import?name={own_cluster.writers.path().name}"
    children.checked(["curl", "-fsS", "--data-binary", f"@{source}", url], free=own_cluster.primary.free)
    own_cluster.sync()
    for connection in (writer, reader):
        assert connection.attempt("SELECT count(*) FROM t").startswith("SQLITE_IOERR")
    finding = check_database(own_cluster.primary, own_cluster.writers.path())
    assert own_cluster.writers.connect().sql("SELECT id, body FROM t") == [[1, "i"]]
    check_replica(own_cluster.replica, own_cluster.readers.path(), finding)


def test_a_database_dropped_while_the_replica_was_away_goes_there_too(own_cluster: Cluster) -> None:
    for name in ("kept", "gone", "again"):
        filled(own_cluster, "WAL", name=name).close()
        own_cluster.sync(name)
    own_cluster.replica.stop()
    own_cluster.writers.close()
    for name in ("gone", "again"):
        own_cluster.writers.run("rm", own_cluster.writers.path(name))
    filled(own_cluster, "DELETE", name="again", rows=5)
    own_cluster.replica.start()
    own_cluster.check("kept")
    own_cluster.check("again")
    await_true(lambda: not own_cluster.readers.exists("gone"), "the database goes")


def test_a_dropped_database_is_told_to_a_replica_that_missed_the_log(own_cluster: Cluster) -> None:
    """A snapshot without pages: the primary's log is gone with a replaced state, and the database with a drop."""
    filled(own_cluster, "DELETE").close()
    own_cluster.sync()
    own_cluster.replica.stop()
    url = f"http://127.0.0.1:{own_cluster.primary.port}/import?name={own_cluster.writers.path().name}"
    export = own_cluster.primary.root / "export.db"
    children.checked(["curl", "-fsS", "-o", export, url.replace("import", "export")], free=own_cluster.primary.free)
    children.checked(["curl", "-fsS", "--data-binary", f"@{export}", url], free=own_cluster.primary.free)
    own_cluster.writers.run("rm", own_cluster.writers.path())
    own_cluster.replica.start()
    await_true(lambda: not own_cluster.readers.exists("db"), "the database goes")
    own_cluster.replica.restart()
    await_true(lambda: "node is ready" in own_cluster.replica.log_tail(), "the replica is ready")
    assert not own_cluster.readers.exists("db")
    filled(own_cluster, "WAL")
    own_cluster.check()


def test_a_listing_that_the_kernel_keeps_shows_what_a_replica_learns(own_cluster: Cluster) -> None:
    replica = own_cluster.replica

    def listing() -> list[str]:
        return sorted(children.checked(["ls", "-A", replica.mount_dir], free=replica.free).split())

    await_true(lambda: listing() == [".lag", ".primary"], "the primary is known")
    for _ in range(2):
        own_cluster.primary.stop()
        await_true(lambda: ".primary" not in listing(), "the primary is gone")
        own_cluster.primary.start()
        await_true(lambda: ".primary" in listing(), "the primary is back")
    filled(own_cluster, "DELETE")
    name = own_cluster.readers.path().name
    await_true(lambda: listing() == sorted([".lag", ".primary", name, f"{name}-pos"]), "the database arrived")
    own_cluster.writers.close()
    children.checked(["rm", own_cluster.writers.path()], free=own_cluster.primary.free)
    await_true(lambda: listing() == [".lag", ".primary"], "the database is gone")

"""Our nodes and those of the original LiteFS, which is written in Go, follow each other.

Every test runs in both directions: a Go replica follows our primary, and ours follows a Go primary. The verdict is the
same as between our own nodes: SQLite's check, the checksum of the position, and equal bytes on both mounts.
"""

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_replication import filled
from tests.support import children, go_tools
from tests.support.cluster import Cluster, await_true
from tests.support.litefs_node import LitefsNode, Pair

QUICK = '  reconnect-delay: "50ms"\n'
MODES = ("DELETE", "WAL")
NOTICED_S = 5.0
SLACK_S = 5.0
"""For a machine that does other things too."""

DIRECTIONS = ("go follows us", "we follow go")


@pytest.fixture(scope="session")
def _go() -> list[str]:
    try:
        return [str(go_tools.find(go_tools.LITEFS))]
    except go_tools.NoGoToolError as error:
        pytest.skip(str(error))


@pytest.fixture(params=DIRECTIONS)
def pair(request: pytest.FixtureRequest, _go: list[str], tmp_path: Path) -> Iterator[Pair]:
    """A primary and a replica of different make, not started."""
    made = Pair(tmp_path)
    if request.param == "go follows us":
        made.replica = LitefsNode(tmp_path / "go", primary_port=made.primary.port, command=_go, extra=QUICK)
    else:
        made.primary = LitefsNode(tmp_path / "go", command=_go)
        made.replica = LitefsNode(tmp_path / "ours", primary_port=made.primary.port, extra=QUICK)
    yield made
    made.stop()
    for node in (made.primary, made.replica):
        request.node.add_report_section("teardown", f"log of {node.root.name}", node.log_text()[-20000:])


@pytest.fixture
def cluster(pair: Pair) -> Iterator[Cluster]:
    """Sessions on a pair, not started."""
    made = Cluster(pair, "interop")
    yield made
    made.close()


@pytest.mark.parametrize("mode", MODES)
def test_commits_arrive_one_by_one(cluster: Cluster, mode: str) -> None:
    cluster.pair.start()
    writer = filled(cluster, mode)
    cluster.sync()
    reader = cluster.readers.connect(busy_timeout_ms=5000)
    for row in range(1000, 1020):
        writer.sql("INSERT INTO t VALUES (?, randomblob(5000))", row)
        cluster.sync()
        # In WAL mode the position is there a moment before readers see it, on replicas of either make.
        seen = [[row, 30 + row - 999]]
        await_true(lambda: reader.unrecorded("SELECT max(id), count(*) FROM t") == seen, "readers see it")  # noqa: B023
    writer.sql("DELETE FROM t WHERE id % 2")
    writer.sql("VACUUM")
    cluster.sync()
    assert reader.sql("SELECT count(*) FROM t") == writer.sql("SELECT count(*) FROM t")
    cluster.check()


@pytest.mark.parametrize("mode", MODES)
def test_a_late_replica_takes_a_snapshot_and_goes_on(cluster: Cluster, mode: str) -> None:
    cluster.primary.start()
    writer = filled(cluster, mode, rows=6000)
    other = filled(cluster, mode, name="other", rows=1)
    cluster.replica.start()
    cluster.sync()
    for _ in range(5):
        writer.sql("UPDATE t SET body = randomblob(900) WHERE id % 7 = 0")
        other.sql("INSERT INTO t VALUES (NULL, randomblob(300))")
    cluster.check()
    cluster.check("other")


@pytest.mark.parametrize(("mode", "page_size"), [("DELETE", 512), ("WAL", 65536)])
def test_pages_of_every_size_arrive(cluster: Cluster, mode: str, page_size: int) -> None:
    cluster.primary.start()
    writer = cluster.writers.connect()
    writer.sql(f"PRAGMA page_size = {page_size}")
    writer.sql(f"PRAGMA journal_mode = {mode}")
    writer.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    writer.many("INSERT INTO t VALUES (?, randomblob(3000))", [[row] for row in range(20)])
    cluster.replica.start()
    cluster.sync()
    writer.sql("INSERT INTO t SELECT id + 100, randomblob(70000) FROM t")
    cluster.check()


@pytest.mark.parametrize("mode", MODES)
def test_a_replica_that_was_away_goes_on_where_it_stopped(cluster: Cluster, mode: str) -> None:
    cluster.pair.start()
    writer = filled(cluster, mode)
    cluster.sync()
    cluster.replica.stop()
    for row in range(1000, 1050):
        writer.sql("INSERT INTO t VALUES (?, randomblob(2000))", row)
    before = _snapshots(cluster)
    cluster.replica.start()
    cluster.check()
    assert _snapshots(cluster) == before, "the log was enough"


def _snapshots(cluster: Cluster) -> int:
    """Returns how many snapshots went over the wire, by the log of our primary or that of the Go replica."""
    log = cluster.primary.log_text() + cluster.replica.log_text()
    return len(re.findall(r"snapshot to .* MB in|snapshot at .* taken over|snapshot received", log))


def test_a_dropped_database_goes_and_comes_back(cluster: Cluster) -> None:
    cluster.pair.start()
    filled(cluster, "DELETE").close()
    cluster.check()
    cluster.writers.run("rm", cluster.writers.path())
    await_true(lambda: not cluster.readers.exists("db"), "the database goes")
    filled(cluster, "DELETE", rows=5)
    cluster.check()


def test_an_import_arrives(cluster: Cluster, tmp_path: Path) -> None:
    cluster.pair.start()
    filled(cluster, "WAL").close()
    cluster.sync()
    _import(cluster, tmp_path, page_size=4096)
    cluster.sync()
    assert cluster.readers.connect().sql("SELECT id FROM t") == [[7]]
    cluster.writers.connect().sql("INSERT INTO t VALUES (8, 'after it')")
    cluster.check()


def _import(cluster: Cluster, directory: Path, *, page_size: int) -> None:
    source = directory / "source.db"
    script = (
        f"PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);"
    )
    children.checked(["sqlite3", source, script + "INSERT INTO t VALUES (7, 'i');"], free=cluster.primary.free)
    url = f"http://127.0.0.1:{cluster.primary.port}/import?name={cluster.writers.path().name}"
    children.checked(["curl", "-fsS", "--data-binary", f"@{source}", url], free=cluster.primary.free)


def test_what_a_go_primary_sends_when_it_leaves_wal_mode_is_refused_and_healed(cluster: Cluster) -> None:
    """Go LiteFS sends an image without pages and with another checksum: its own replicas stop for good."""
    if cluster.primary.root.name != "go":
        pytest.skip("our own primary sends page 1")
    cluster.pair.start()
    writer = filled(cluster, "WAL")
    cluster.sync()
    writer.sql("PRAGMA journal_mode = DELETE")
    await_true(lambda: "a snapshot is needed" in cluster.replica.log_text(), "it is refused")
    writer.sql("INSERT INTO t VALUES (1000, 'after it')")
    cluster.sync()
    assert cluster.readers.connect().sql("SELECT max(id) FROM t") == [[1000]]
    cluster.check()


def test_an_idle_stream_stays_open(cluster: Cluster) -> None:
    """Longer than a follower waits for a sign of its primary."""
    cluster.pair.start()
    filled(cluster, "WAL")
    cluster.sync()
    connections = _connections(cluster)
    heartbeats, lag_ms = 0, 0
    deadline = time.monotonic() + 60
    while heartbeats < 7:  # one a second
        lag_ms, before = int(cluster.replica.read(".lag")), lag_ms
        heartbeats += lag_ms < before
        assert time.monotonic() < deadline
    assert _connections(cluster) == connections
    cluster.check()


def test_a_go_replica_that_is_stopped_is_noticed_within_seconds(cluster: Cluster) -> None:
    """Its kernel goes on taking what it is sent; that it answers no ping is all that shows."""
    if cluster.replica.root.name != "go":
        pytest.skip("what a Go primary notices is not ours")
    cluster.pair.start()
    writer = filled(cluster, "WAL")
    cluster.sync()
    await_true(lambda: _followers(cluster) == [True], "it follows")
    pids = cluster.replica.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        await_true(lambda: _followers(cluster) == [], "the primary notices")
        assert time.monotonic() - begun <= NOTICED_S + SLACK_S
        writer.sql("INSERT INTO t VALUES (1000, 'meanwhile')")
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
    cluster.check()


def _followers(cluster: Cluster) -> list[bool]:
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.primary.port}/status", timeout=20) as answer:
        return [follower["ready"] for follower in json.load(answer)["followers"]]


def _connections(cluster: Cluster) -> int:
    return len(re.findall(r"following 127|existing primary found", cluster.replica.log_text()))


@pytest.mark.parametrize("mode", MODES)
def test_a_replica_that_diverged_takes_the_primarys_state(cluster: Cluster, mode: str) -> None:
    """It was primary on its own meanwhile, with as many transactions."""
    pair = cluster.pair
    pair.start()
    filled(cluster, mode).close()
    cluster.sync()
    pair.replica.stop()
    configuration = pair.replica.config_path.read_text()
    pair.replica.config_path.write_text(configuration.replace("candidate: false", "candidate: true"))
    pair.replica.start()
    for session in (cluster.readers, cluster.writers):
        connection = session.connect(busy_timeout_ms=5000)
        connection.sql("INSERT INTO t VALUES (1000, ?)", str(session.place.mount_dir))
        connection.close()
    pair.replica.stop()
    pair.replica.config_path.write_text(configuration)
    pair.replica.start()
    cluster.check()
    rows = cluster.readers.connect().sql("SELECT body FROM t WHERE id = 1000")
    assert rows == [[str(cluster.primary.mount_dir)]]


@pytest.mark.parametrize("mode", MODES)
def test_a_cluster_changes_its_make_node_by_node(cluster: Cluster, mode: str) -> None:
    """The replica becomes primary by its configuration, and the old primary follows it, without a snapshot."""
    pair = cluster.pair
    pair.start()
    filled(cluster, mode).close()
    cluster.sync()
    pair.stop()
    snapshots = _snapshots(cluster)
    old, new = pair.primary, pair.replica
    url = f"http://127.0.0.1:{old.port}"
    for node, before, after in ((old, "true", "false"), (new, "false", "true")):
        text = node.config_path.read_text().replace(f"candidate: {before}", f"candidate: {after}")
        node.config_path.write_text(text.replace(url, f"http://127.0.0.1:{new.port}"))
    turned = Pair(pair.primary.root.parent / "turned")
    turned.primary, turned.replica = new, old
    back = Cluster(turned, "interop")
    try:
        turned.start()
        writer = back.writers.connect()
        writer.sql("INSERT INTO t VALUES (1000, 'the new primary wrote this')")
        writer.close()
        back.check()
        assert _snapshots(back) == snapshots
    finally:
        back.close()

"""A replica that is far behind: what piled up is applied many transactions at a time, and readers see whole ones only.

Each transaction adds a row and counts it in another table, so that one statement tells whether a state is that after
some transaction.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.test_deaths import NODE
from tests.support import children
from tests.support.applications import Application
from tests.support.cluster import Cluster, await_true
from tests.support.sql_client import SqlError

TRANSACTIONS = 3000
KILLS = 3
WRITER = """
import sqlite3, sys
path, count = sys.argv[1], int(sys.argv[2])
connection = sqlite3.connect(path, isolation_level=None, timeout=30)
connection.execute("PRAGMA synchronous = OFF")
for _ in range(count):
    connection.executescript(
        "BEGIN; INSERT INTO t (body) VALUES (randomblob(100)); UPDATE counted SET n = n + 1; COMMIT"
    )
"""
STATE = "SELECT (SELECT n FROM counted), (SELECT count(*) FROM t), (SELECT ifnull(max(id), 0) FROM t)"


class Watcher(Application):
    """Looks at the state of the replica all the time."""

    def __init__(self, cluster: Cluster) -> None:
        """Opens nothing yet."""
        super().__init__()
        self._cluster = cluster
        self._process = cluster.readers.process()
        self.seen = 0

    def run(self) -> None:
        """Looks."""
        connection = None
        while not self._stopping.is_set():
            try:
                if connection is None:
                    connection = self._cluster.readers.connect(process=self._process, busy_timeout_ms=2000)
                ((counted, rows, newest),) = connection.unrecorded(STATE)
            except SqlError:
                if connection is not None:
                    connection.close()
                connection = None
                self._stopping.wait(0.01)
                continue
            assert counted == rows == newest, f"{counted} counted, {rows} rows, the newest is {newest}"
            assert int(str(counted)) >= self.seen, f"{counted} after {self.seen}"
            self.seen = int(str(counted))
            self._stopping.wait(0.001)


def leave_behind(cluster: Cluster, mode: str, count: int) -> None:
    """Commits transactions while the replica is away."""
    writer = cluster.writers.connect()
    writer.sql(f"PRAGMA journal_mode = {mode}")
    writer.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    writer.sql("CREATE TABLE counted (n INTEGER)")
    writer.sql("INSERT INTO counted VALUES (0)")
    cluster.sync()
    cluster.replica.stop()
    command: list[str | Path] = [sys.executable, "-c", WRITER, cluster.writers.path(), str(count)]
    done = children.run(command, free=cluster.primary.free, timeout_s=120)
    assert done.code == 0, done.err


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_readers_of_a_replica_that_catches_up_see_whole_transactions_in_their_order(
    quick_cluster: Cluster, mode: str
) -> None:
    cluster = quick_cluster
    leave_behind(cluster, mode, TRANSACTIONS)
    cluster.replica.start()
    watcher = Watcher(cluster)
    watcher.start()
    try:
        cluster.sync(timeout_s=60)
        await_true(lambda: watcher.seen == TRANSACTIONS or watcher.failure, "the reader sees all of it")
    finally:
        watcher.stop()
    assert "taken over" not in cluster.replica.log_text(), "it came image by image, not as a snapshot"
    cluster.check()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_replica_that_is_killed_while_it_catches_up_goes_on_where_it_stopped(
    quick_cluster: Cluster, mode: str, record_property: Callable[[str, object], None]
) -> None:
    cluster = quick_cluster
    leave_behind(cluster, mode, TRANSACTIONS)
    before = cluster.position()
    cluster.replica.start()
    watcher = Watcher(cluster)
    watcher.start()
    killed_at = []
    try:
        for _ in range(KILLS):
            position = cluster.replica_position()
            await_true(
                lambda position=position: cluster.replica_position() not in (position, ""),  # type: ignore[misc]
                "it goes on",
            )
            killed_at.append(cluster.replica_position().partition("/")[0])
            if cluster.replica_position() == before:
                break
            os.kill(cluster.replica.child_pid(NODE), signal.SIGKILL)
        cluster.sync(timeout_s=60)
        await_true(lambda: watcher.seen == TRANSACTIONS or watcher.failure, "the reader sees all of it")
    finally:
        watcher.stop()
    record_property("killed at", killed_at)
    assert "taken over" not in cluster.replica.log_text()
    cluster.check()

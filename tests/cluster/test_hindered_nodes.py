"""Nodes that are there and must not lead: with a filesystem process that hangs, or with damaged databases."""

import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import await_true
from tests.support.consul_cluster import FILESYSTEM, ConsulCluster, ConsulNode, eventually
from tests.support.scenario import Session
from tests.support.sql_client import SqlError

TTL_S = 2.0
NOTICED_S = 5.0
SLACK_S = 5.0
"""For a machine that does other things too."""


class Pair:
    """Two nodes that have a table with one row; `a` is primary."""

    def __init__(self, cluster: ConsulCluster) -> None:
        self.cluster = cluster
        self.sessions = cluster.sessions()
        connection = self.sessions[0].connect()
        connection.sql("PRAGMA journal_mode = WAL")
        connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        connection.sql("INSERT INTO t VALUES (1)")
        connection.close()
        self.await_same_positions()

    @property
    def name(self) -> str:
        return self.sessions[0].path("db").name

    def await_same_positions(self) -> None:
        def positions() -> set[str]:
            return {node.read(f"{self.name}-pos").strip() for node in self.cluster.nodes}

        eventually(lambda: len(positions()) == 1 and "" not in positions(), "all nodes are at one position")

    def rows(self, node: ConsulNode) -> list[list[object]]:
        reader = self._session(node).connect()
        try:
            assert reader.sql("PRAGMA integrity_check") == [["ok"]]
            return reader.sql("SELECT id FROM t ORDER BY id")
        finally:
            reader.close()

    def await_insert(self, node: ConsulNode, row: int) -> None:
        writer = self._session(node).connect(busy_timeout_ms=2000)

        def inserts() -> bool:
            try:
                writer.unrecorded("INSERT INTO t VALUES (?)", row)
            except SqlError:
                return False
            return True

        await_true(inserts, f"{node.root.name} accepts commits")
        writer.close()

    def _session(self, node: ConsulNode) -> Session:
        return self.sessions[self.cluster.nodes.index(node)]


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    cluster = ConsulCluster(tmp_path / "pair", 2, ttl_s=TTL_S)
    try:
        cluster.start()
        yield Pair(cluster)
    finally:
        cluster.stop()
        for node in cluster.nodes:
            request.node.add_report_section("teardown", f"log of {node.root.name}", node.log_text()[-20000:])


def test_a_primary_whose_filesystem_process_hangs_gives_the_lease_up(pair: Pair) -> None:
    a, b = pair.cluster.nodes
    pid = a.child_pid(FILESYSTEM)
    os.kill(pid, signal.SIGSTOP)
    try:
        pair.cluster.await_primary(b, timeout_s=60.0)
        pair.await_insert(b, 2)
        assert _get(a, "/readyz") == (503, "not ready: its filesystem process or its disk does not answer\n")
        assert 'litefs_lease_event_count{event="silent"} 1.0' in _get(a, "/metrics")[1]
        assert "the lease is given up: its filesystem process or its disk does not answer" in a.log_text()
    finally:
        os.kill(pid, signal.SIGCONT)
    pair.await_same_positions()
    assert pair.rows(a) == pair.rows(b) == [[1], [2]]
    eventually(lambda: a.status()["candidate"] and a.status()["ready"], "it may be primary again")
    eventually(lambda: a.post("/promote") == 200, "it is promoted")
    pair.await_insert(a, 3)


def test_a_replica_that_is_stopped_is_noticed_within_seconds(pair: Pair) -> None:
    a, b = pair.cluster.nodes
    eventually(lambda: [follower["ready"] for follower in a.status()["followers"]] == [True], "b follows")
    pids = b.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        eventually(lambda: a.status()["followers"] == [], "the primary notices")
        assert time.monotonic() - begun <= NOTICED_S + SLACK_S
        metrics = _get(a, "/metrics")[1]
        assert "litefs_http_stream_count 0.0" in metrics
        assert "litefs_follower_silent_count 1.0" in metrics
        assert "gives no sign of life" in a.log_text()
        pair.await_insert(a, 2)
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
    pair.await_same_positions()
    assert pair.rows(b) == [[1], [2]]


def test_a_damaged_candidate_waits_for_a_primary_and_takes_its_state(pair: Pair) -> None:
    a, b = pair.cluster.nodes
    b.stop()
    a.stop()
    log = max((a.data_dir / "dbs" / pair.name / "log").glob("*.ltxlog"))
    damaged = bytearray(log.read_bytes())
    damaged[10] ^= 0x10
    log.write_bytes(damaged)

    reason = "what it had was damaged, and it has not caught up with a primary since"
    a.start()
    eventually(lambda: a.status().get("role") == "candidate", "it looks for a primary")
    eventually(lambda: f"nobody is primary, and this node must not be: {reason}" in a.log_text(), "the log says why")
    assert _get(a, "/readyz") == (503, f"not ready: {reason}\n")
    assert not a.status()["candidate"]
    a.kill()  # whatever happens meanwhile, it does not forget
    a.start()
    eventually(lambda: _get(a, "/readyz") == (503, f"not ready: {reason}\n"), "it still knows")
    assert not a.is_primary

    b.start()
    pair.cluster.await_primary(b)
    pair.await_insert(b, 2)
    pair.await_same_positions()
    assert pair.rows(a) == pair.rows(b) == [[1], [2]]
    (aside,) = (a.data_dir / "dbs-aside").iterdir()
    assert (aside / "log" / log.name).read_bytes() == damaged
    eventually(lambda: a.status()["candidate"], "it may be primary again")
    eventually(lambda: a.post("/promote") == 200, "it is promoted")
    pair.await_insert(a, 3)
    a.restart()
    eventually(lambda: a.status().get("candidate"), "it stays a candidate")


def _get(node: ConsulNode, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)

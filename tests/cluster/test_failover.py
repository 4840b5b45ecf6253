"""Three nodes and a real Consul: the primary changes, by order, by accident and by force.

Everywhere an application writes to whichever node lets it. What it was told is committed is there afterwards, once,
unless the primary vanished before any replica had it; and no TXID is ever committed by two nodes.
"""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.applications import Writer
from tests.support.cluster import await_true
from tests.support.consul_cluster import FILESYSTEM, KEY, NODE, ConsulCluster, ConsulNode, eventually, opened
from tests.support.scenario import Session
from tests.support.sql_client import SqlError

LONG_TTL_S = 10.0
TTL_S = 2.0
"""Where a lease is to run out."""

LOCK_DELAY_S = 0.1
SLACK_S = 4.0
"""For a machine that does other things too."""

LATER_ROW = 1_000_000
"""Above what a quick machine commits within a TTL."""


@pytest.fixture(params=["DELETE", "WAL"])
def mode(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


class Running:
    """A cluster with a database that all nodes have, and sessions on all mounts."""

    def __init__(self, cluster: ConsulCluster, mode: str) -> None:
        self.cluster = cluster
        self.sessions = cluster.sessions()
        with_table = self.sessions[0].connect()
        with_table.sql(f"PRAGMA journal_mode = {mode}")
        with_table.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        with_table.close()
        self.await_same_positions()

    def session(self, node: ConsulNode) -> Session:
        return self.sessions[self.cluster.nodes.index(node)]

    def positions(self) -> set[str]:
        name = self.sessions[0].path("db").name + "-pos"
        return {node.read(name).strip() for node in self.cluster.nodes if node.is_alive}

    def await_same_positions(self) -> None:
        eventually(lambda: len(self.positions()) == 1 and "" not in self.positions(), "all nodes are at one position")

    def rows(self, node: ConsulNode) -> list[int]:
        reader = self.session(node).connect()
        try:
            assert reader.sql("PRAGMA integrity_check") == [["ok"]]
            return [row for (row,) in reader.sql("SELECT id FROM t ORDER BY id")]  # type: ignore[misc]
        finally:
            reader.close()

    def check(self, acknowledged: list[int], refused: list[int], *, lost_max: int = 0) -> None:
        """Every living node has the same rows: all acknowledged ones but at most `lost_max`, and no refused one."""
        self.await_same_positions()
        found = [self.rows(node) for node in self.cluster.nodes if node.is_alive]
        assert all(rows == found[0] for rows in found)
        missing = set(acknowledged) - set(found[0])
        assert len(missing) <= lost_max, f"{len(missing)} rows are missing: {sorted(missing)[:10]}"
        returned = sorted(set(refused) & set(found[0]))
        assert not returned, f"{len(returned)} refused rows are there: {returned[:10]}"


@pytest.fixture
def trio(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    """Three nodes; `a` is primary."""
    yield from opened(ConsulCluster(tmp_path / "trio", 3, ttl_s=LONG_TTL_S), request)


@pytest.fixture
def expiring_trio(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    """The same with a lease that runs out soon."""
    yield from opened(ConsulCluster(tmp_path / "trio", 3, ttl_s=TTL_S), request)


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    """Two nodes; `a` is primary."""
    yield from opened(ConsulCluster(tmp_path / "pair", 2, ttl_s=LONG_TTL_S), request)


@pytest.fixture
def expiring_pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    """The same with a lease that runs out soon."""
    yield from opened(ConsulCluster(tmp_path / "pair", 2, ttl_s=TTL_S), request)


def test_the_primary_moves_by_order_and_by_accident_and_loses_nothing(trio: ConsulCluster, mode: str) -> None:
    running = Running(trio, mode)
    writer = Writer(running.sessions)
    writer.start()
    primary = trio.await_primary()
    try:
        for target in [trio.nodes[1], trio.nodes[2], trio.nodes[0]]:
            _await_rows(writer, 20)
            eventually(partial(_succeeds, target, "/promote"), "it follows, and is promoted")
            assert target.is_primary
            primary = target
        _await_rows(writer, 20)
        node_id = trio.nodes[1].status()["node_id"]
        eventually(partial(_succeeds, primary, f"/handoff?nodeID={node_id}"), "that node follows, and gets the lease")
        _await_rows(writer, 20)

        # One process of the primary dies: the supervisor starts it again, and the lease is kept.
        primary = trio.await_primary()
        for program in (NODE, FILESYSTEM):
            term = _session(trio)
            os.kill(primary.child_pid(program), signal.SIGKILL)
            eventually(lambda: primary.is_primary, "it is primary again")
            assert _session(trio) == term
            _await_rows(writer, 20)

        # All of it ends in good order.
        writer.avoid(trio.nodes.index(primary))
        primary.stop()
        _await_rows(writer, 20)
        primary.start()
        eventually(lambda: primary.status().get("ready"), "it follows")
        writer.use_all()
    finally:
        writer.stop()
    running.check(writer.acknowledged, [])


def test_all_of_a_primary_is_killed_and_another_takes_over_in_time(expiring_trio: ConsulCluster, mode: str) -> None:
    running = Running(expiring_trio, mode)
    writer = Writer(running.sessions)
    writer.start()
    killed = expiring_trio.nodes[0]
    try:
        _await_rows(writer, 20)
        killed.kill()
        begun = time.monotonic()
        successor = expiring_trio.await_primary(*expiring_trio.others(killed))
        # Consul ends a session after up to twice its TTL.
        assert time.monotonic() - begun <= 2 * TTL_S + LOCK_DELAY_S + 1.0 + SLACK_S
        _await_rows(writer, 20)
        killed.start()
        eventually(lambda: killed.status().get("ready"), "the deposed primary follows")
    finally:
        writer.stop()
    assert successor.is_primary
    # Replication is asynchronous: what was acknowledged in the last moment may be lost, and nothing before.
    running.check(writer.acknowledged, [], lost_max=50)


def test_what_only_a_vanished_primary_had_gives_way_to_the_new_primary(expiring_pair: ConsulCluster, mode: str) -> None:
    running = Running(expiring_pair, mode)
    a, b = expiring_pair.nodes
    b.stop()
    writer = running.session(a).connect()
    for row in range(1, 6):
        writer.sql("INSERT INTO t VALUES (?)", row)
    a.kill()
    b.start()
    expiring_pair.await_primary(b)
    other = running.session(b).connect(busy_timeout_ms=2000)
    other.sql("INSERT INTO t VALUES (100)")
    a.start()
    running.await_same_positions()
    assert running.rows(a) == running.rows(b)
    assert 100 in running.rows(a)
    assert 5 not in running.rows(a)


def test_no_commit_is_accepted_after_the_lease_when_consul_is_frozen(expiring_pair: ConsulCluster, mode: str) -> None:
    running = Running(expiring_pair, mode)
    a, b = expiring_pair.nodes
    application = running.session(a).connect()
    application.sql("INSERT INTO t VALUES (1)")
    expiring_pair.agent.freeze()
    begun = last = time.monotonic()
    row = 1
    while True:  # commits go on for less than a TTL
        try:
            application.unrecorded("INSERT INTO t VALUES (?)", row + 1)
        except SqlError:
            break
        row, last = row + 1, time.monotonic()
        assert last - begun < 60
    assert last - begun <= TTL_S + SLACK_S / 4
    # What was committed is replicated, reads go on, and nobody else became primary.
    running.await_same_positions()
    assert len(running.rows(a)) == len(running.rows(b)) == row
    eventually(lambda: not expiring_pair.primaries(), "nobody is primary")
    expiring_pair.agent.thaw()
    primary = expiring_pair.await_primary()
    again = running.session(primary).connect(busy_timeout_ms=2000)
    await_true(lambda: _inserts(again, LATER_ROW), "it accepts commits again")
    running.check([*range(1, row + 1), LATER_ROW], [row + 1])
    assert "could not be renewed in time" in a.log_text()


@pytest.mark.parametrize("part", ["node process", "whole node"])
def test_a_primary_that_stood_still_accepts_nothing_afterwards(
    expiring_pair: ConsulCluster, mode: str, part: str
) -> None:
    running = Running(expiring_pair, mode)
    a, b = expiring_pair.nodes
    application = running.session(a).connect()
    application.sql("INSERT INTO t VALUES (1)")
    running.await_same_positions()
    pids = [a.child_pid(NODE)] if part == "node process" else a.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        expiring_pair.await_primary(b)
        other = running.session(b).connect(busy_timeout_ms=2000)
        await_true(lambda: _inserts(other, 2), "the new primary accepts commits")
        if part == "node process":
            assert not _inserts(application, 3)
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
    assert not _inserts(application, 3)
    running.await_same_positions()
    assert running.rows(a) == running.rows(b) == [1, 2]


def test_a_consul_that_comes_back_empty_gets_the_same_primary_again(expiring_pair: ConsulCluster) -> None:
    running = Running(expiring_pair, "WAL")
    writer = Writer(running.sessions)
    writer.start()
    try:
        _await_rows(writer, 20)
        expiring_pair.agent.stop()
        eventually(lambda: not expiring_pair.primaries(), "nobody is primary")
        expiring_pair.agent.start()
        expiring_pair.await_primary()
        _await_rows(writer, 20)
    finally:
        writer.stop()
    assert expiring_pair.agent.value(f"{KEY}/clusterid").startswith(b"LFSC")
    running.check(writer.acknowledged, writer.refused)


def test_an_operator_takes_the_key_away_and_somebody_locks_it_again(pair: ConsulCluster) -> None:
    running = Running(pair, "WAL")
    writer = Writer(running.sessions)
    writer.start()
    try:
        _await_rows(writer, 20)
        for _ in range(3):
            pair.agent.request("DELETE", f"/v1/kv/{KEY}")
            eventually(lambda: pair.agent.value(KEY), "somebody has the key")
            pair.await_primary()
            _await_rows(writer, 20)
    finally:
        writer.stop()
    # Where the replica was quicker than the primary, what that one had not sent is gone: the operator took its lease.
    running.check(writer.acknowledged, writer.refused, lost_max=len(writer.acknowledged))


def test_a_transaction_that_is_open_when_the_lease_moves_is_refused_and_rolled_back(
    pair: ConsulCluster, mode: str
) -> None:
    running = Running(pair, mode)
    a, b = pair.nodes
    application = running.session(a).connect()
    application.sql("BEGIN IMMEDIATE")
    application.sql("INSERT INTO t VALUES (1)")
    eventually(partial(_succeeds, b, "/promote"), "it is promoted")
    assert application.attempt("COMMIT") != "ok"
    application.attempt("ROLLBACK")
    other = running.session(b).connect(busy_timeout_ms=2000)
    await_true(lambda: _inserts(other, 2), "the new primary accepts commits")
    running.await_same_positions()
    assert running.rows(a) == running.rows(b) == [2]


def test_a_node_that_may_not_lead_is_never_promoted(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = ConsulCluster(tmp_path / "with-follower", 1, ttl_s=LONG_TTL_S)
    follower = ConsulNode(tmp_path / "follower", cluster.agent, ttl_s=LONG_TTL_S, candidate=False)
    cluster.nodes.append(follower)
    for _ in opened(cluster, request):
        assert follower.post("/promote") == 409
        assert cluster.nodes[0].is_primary
        cluster.nodes[0].stop()
        time.sleep(3 * LOCK_DELAY_S)
        assert not follower.is_primary


def test_a_node_asks_for_the_lease_at_its_start_if_it_should(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cluster = ConsulCluster(tmp_path / "promoted", 1, ttl_s=LONG_TTL_S)
    eager = ConsulNode(tmp_path / "eager", cluster.agent, ttl_s=LONG_TTL_S, extra="  promote: true\n")
    cluster.nodes.append(eager)
    for _ in opened(cluster, request):
        cluster.await_primary(eager)
        eventually(lambda: not cluster.nodes[0].is_primary, "the other follows")


def _await_rows(writer: Writer, count: int) -> None:
    target = len(writer.acknowledged) + count
    deadline = time.monotonic() + 40.0
    while len(writer.acknowledged) < target and writer.failure is None:
        assert time.monotonic() < deadline, f"no more rows: {writer.refusals}"
        time.sleep(0.01)
    assert writer.failure is None, writer.failure


def _succeeds(node: ConsulNode, path: str) -> bool:
    return node.post(path) == 200  # 500 while the replica has not called the new primary yet


def _session(cluster: ConsulCluster) -> bytes:
    return cluster.agent.request("GET", f"/v1/kv/{KEY}").split(b'"Session":')[1].split(b'"')[1]


def _inserts(connection: object, row: int) -> bool:
    try:
        connection.unrecorded("INSERT INTO t VALUES (?)", row)  # type: ignore[attr-defined]
    except SqlError:
        return False
    return True

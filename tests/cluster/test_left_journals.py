"""Journals that applications left on a primary when the lease moves: kept by PERSIST and TRUNCATE, or hot of the dead.

A journal with a zeroed header, or an empty one, belongs to no transaction; one of an application that was killed does,
and what it has to take back was never committed. Neither may get in the way of the images that come afterwards.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.cluster import await_true
from tests.support.consul_cluster import ConsulCluster, ConsulNode, eventually, opened
from tests.support.scenario import Connection, Session
from tests.support.sql_client import SqlError

PAGE_N = 200
"""More than the cache of the application that is killed: pages are in the database file, over a journal."""


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    yield from opened(ConsulCluster(tmp_path / "pair", 2, ttl_s=10.0), request)


@pytest.mark.parametrize("mode", ["PERSIST", "TRUNCATE", "DELETE"])
def test_journals_that_were_left_on_a_deposed_primary_change_nothing(pair: ConsulCluster, mode: str) -> None:
    a, b = pair.nodes
    on_a, on_b = pair.sessions()
    idle = on_a.connect()
    idle.sql(f"PRAGMA journal_mode = {mode}")
    idle.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    idle.many("INSERT INTO t VALUES (?, zeroblob(3000))", [[row] for row in range(1, PAGE_N + 1)])
    assert on_a.exists("db-journal") is (mode != "DELETE")

    _move(pair, b)
    _await_insert(on_b, 1000)
    _await_same_positions(pair, on_a)
    assert _rows(idle) == _rows(on_a.connect()) == [*range(1, PAGE_N + 1), 1000]
    with pytest.raises(SqlError):
        idle.unrecorded("INSERT INTO t (id) VALUES (2000)")

    # The other way, with the connection that was there all the time.
    _move(pair, a)
    await_true(partial(_inserts, idle, 1001), "the connection can write again")
    _await_same_positions(pair, on_a)

    # An application dies in a transaction, pages of which are in the database already; its node is deposed.
    victim = on_a.connect()
    victim.sql(f"PRAGMA journal_mode = {mode}")
    victim.sql("PRAGMA cache_size = 5")
    victim.sql("BEGIN IMMEDIATE")
    victim.sql("UPDATE t SET body = randomblob(3000)")
    victim.process.kill()
    _move(pair, b)
    _await_insert(on_b, 1002)
    _await_same_positions(pair, on_a)
    expected = [*range(1, PAGE_N + 1), 1000, 1001, 1002]
    assert _rows(idle) == _rows(on_a.connect()) == _rows(on_b.connect()) == expected
    assert on_a.connect().sql("SELECT count(*) FROM t WHERE body <> zeroblob(3000)") == [[0]]


def _move(cluster: ConsulCluster, target: ConsulNode) -> None:
    eventually(lambda: target.post("/promote") == 200, f"{target.root.name} follows, and is promoted")
    cluster.await_primary(target)


def _await_same_positions(cluster: ConsulCluster, session: Session) -> None:
    name = session.path("db").name + "-pos"
    eventually(lambda: len({node.read(name) for node in cluster.nodes}) == 1, "all nodes are at one position")


def _await_insert(session: Session, row: int) -> None:
    connection = session.connect(busy_timeout_ms=2000)
    await_true(partial(_inserts, connection, row), "the new primary accepts commits")
    connection.close()


def _inserts(connection: Connection, row: int) -> bool:
    try:
        connection.unrecorded("INSERT INTO t (id) VALUES (?)", row)
    except SqlError:
        return False
    return True


def _rows(connection: Connection) -> list[object]:
    assert connection.sql("PRAGMA integrity_check") == [["ok"]]
    return [row for (row,) in connection.sql("SELECT id FROM t ORDER BY id")]

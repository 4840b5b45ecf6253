"""A node of LiteFS 0.5 and one of ours share a lease in Consul: it is handed to and fro, and nothing is lost."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import go_tools
from tests.support.cluster import await_true
from tests.support.consul_cluster import ConsulCluster, ConsulNode, eventually
from tests.support.scenario import Session
from tests.support.sql_client import SqlError

CHANGES = 4
ROWS = 10


@pytest.fixture
def mixed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    """Ours, which is primary, and Go's."""
    try:
        program = go_tools.find(go_tools.LITEFS)
    except go_tools.NoGoToolError as error:
        pytest.skip(str(error))
    cluster = ConsulCluster(tmp_path / "mixed", 2, ttl_s=10.0, programs={1: [str(program)]})
    ours, theirs = cluster.nodes
    try:
        cluster.agent.start()
        ours.start()
        cluster.await_primary(ours)
        theirs.start()
        yield cluster
    finally:
        cluster.stop()
        for node in cluster.nodes:
            request.node.add_report_section("teardown", f"log of {node.root.name}", node.log_text()[-20000:])


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_the_lease_goes_to_and_fro_between_the_two_makes(mixed: ConsulCluster, mode: str) -> None:
    ours, theirs = mixed.nodes
    sessions = mixed.sessions()
    connection = sessions[0].connect()
    connection.sql(f"PRAGMA journal_mode = {mode}")
    connection.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    connection.close()
    name = sessions[0].path("db").name + "-pos"
    eventually(lambda: theirs.read(name) == ours.read(name) != "", "the database arrives")
    expected = 0
    for turn in range(CHANGES):
        target = (theirs, ours)[turn % 2]
        eventually(partial(_takes_the_lease, target), "it is primary")
        # Go commits into the void what an application writes while it hands the lease over, so nobody does.
        session = sessions[mixed.nodes.index(target)]
        for _ in range(ROWS):
            expected += 1
            eventually(partial(_inserts, session, expected), "it accepts a commit")
    assert ours.is_primary
    await_true(lambda: theirs.read(name) == ours.read(name), "both are at one position")
    for session in sessions:
        reader = session.connect(busy_timeout_ms=5000)
        assert reader.sql("PRAGMA integrity_check") == [["ok"]]
        assert reader.sql("SELECT count(*), max(id) FROM t") == [[expected, expected]]
    with pytest.raises(SqlError):
        sessions[1].connect().sql("INSERT INTO t VALUES (0)")


def _takes_the_lease(node: ConsulNode) -> bool:
    return bool(node.info().get("isPrimary")) or (node.post("/promote") == 200 and bool(node.info().get("isPrimary")))


def _inserts(session: Session, row: int) -> bool:
    connection = session.connect(busy_timeout_ms=1000)
    try:
        connection.unrecorded("INSERT INTO t VALUES (?)", row)
    except SqlError:
        return False
    finally:
        connection.close()
    return True

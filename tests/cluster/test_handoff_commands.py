"""`litefs promote` and `litefs handoff` against real nodes with a real Consul, as an operator or preStop runs them."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul_cluster import NODE, ConsulCluster, ConsulNode, eventually, opened
from tests.support.filesystem_node import REPOSITORY
from tests.support.litefs_node import own_command

COMMAND_TIMEOUT_S = 60.0


@pytest.fixture
def trio(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    """Three nodes; `a` is primary."""
    yield from opened(ConsulCluster(tmp_path / "trio", 3, ttl_s=10.0), request)


def litefs(*arguments: str) -> tuple[int, str]:
    """Runs a command and returns its exit code, and what it printed on either stream."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "sidecar")}
    ended = subprocess.run(
        [*own_command(), *arguments],
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_TIMEOUT_S,
    )
    return ended.returncode, ended.stdout


def handoff(node: ConsulNode, *arguments: str) -> tuple[int, str]:
    return litefs("handoff", "-config", str(node.config_path), *arguments)


def test_the_lease_moves_by_command_and_not_to_who_leaves(trio: ConsulCluster) -> None:
    a, b, c = trio.nodes
    ids = {node: node.status()["node_id"] for node in trio.nodes}

    assert litefs("promote", "-url", f"http://127.0.0.1:{b.port}") == (0, "this node is primary\n")
    assert b.is_primary
    assert handoff(a) == (0, "this node is not the primary\n")
    eventually(lambda: handoff(b, "-node", ids[c]) == (0, f"node {ids[c]} is primary\n"), "c follows, and gets it")
    code, text = handoff(b, "-node", ids[a])
    assert code == 1
    assert "node is not currently primary" in text

    # As in the preStop of a pod: on a replica first, then on the primary, until nobody is left to take the lease.
    assert handoff(a, "-timeout", "5s", "-leave") == (0, "this node is not the primary\n")
    assert not a.status()["candidate"]
    code, text = handoff(c, "-node", ids[a])
    assert code == 1
    assert "the target node did not take the lease over" in text
    eventually(lambda: litefs("promote", "-url", f"http://127.0.0.1:{c.port}")[0] == 0, "c is primary again")
    assert handoff(c, "-timeout", "30s", "-leave") == (0, f"node {ids[b]} is primary\n")
    eventually(lambda: b.is_primary, "b is primary")
    assert handoff(b, "-timeout", "5s", "-leave") == (0, "no candidate follows: this node stays primary\n")
    assert b.is_primary

    # A node process that dies takes nothing of that along.
    for node in (a, b):
        os.kill(node.child_pid(NODE), signal.SIGKILL)
        eventually(lambda node=node: node.status().get("ready"), f"{node.name} is ready again")  # type: ignore[misc]
        assert not node.status()["candidate"]
    assert b.is_primary
    code, text = litefs("promote", "-url", f"http://127.0.0.1:{a.port}")
    assert code == 1
    assert "409 not eligible to become primary: this node is about to end" in text

    # The mounts are as they were: who left replicates on, the primary accepts commits.
    session = trio.sessions()[1]
    application = session.connect(busy_timeout_ms=2000)
    application.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    application.close()
    name = session.path("db").name + "-pos"
    eventually(lambda: a.read(name) and a.read(name) == b.read(name) == c.read(name), "a and c follow")

    # It ends. Nobody takes its place, for all have left; a new start is a candidate again.
    b.stop()
    assert not trio.primaries()
    c.restart()
    trio.await_primary(c)

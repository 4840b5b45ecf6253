"""What nodes make of each other on a network that fails, and of peers that they should not listen to."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_replication import filled
from tests.support.cluster import Cluster, await_true, follower_of
from tests.support.litefs_node import LitefsNode

QUICK = '  reconnect-delay: "50ms"\n'
TOKEN = "correct-horse-battery"

LATE_S = 3.0
"""What a busy machine may add to a bound."""


def _followers(node: LitefsNode, token: str = "") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/status", headers={"Authorization": f"Bearer {token}"} if token else {})
        return len(json.loads(connection.getresponse().read())["followers"])


def _refusals(node: LitefsNode) -> int:
    return len(re.findall(r"WARNING node: stream from .*", node.log_text()))


@pytest.fixture
def network(tmp_path: Path) -> Iterator["Network"]:
    """A network namespace that a process can be cut off in."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        made = Network(f"litefs-{os.getpid()}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.close()


class Network:
    """A veth pair: 10.213.71.1 here, 10.213.71.2 in a namespace. Cut, it drops packets in silence."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._run("ip", "netns", "add", name)
        self._run("ip", "link", "add", "litefs-t0", "type", "veth", "peer", "name", "litefs-t1", "netns", name)
        self._run("ip", "addr", "add", "10.213.71.1/24", "dev", "litefs-t0")
        self._run("ip", "link", "set", "litefs-t0", "up")
        self.inside("ip", "addr", "add", "10.213.71.2/24", "dev", "litefs-t1")
        self.inside("ip", "link", "set", "litefs-t1", "up")

    def inside(self, *command: str) -> None:
        self._run("nsenter", f"--net=/run/netns/{self.name}", *command)

    def cut(self) -> None:
        self.inside("ip", "link", "set", "litefs-t1", "down")

    def close(self) -> None:
        self._run("ip", "netns", "delete", self.name)

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, timeout=20)


FOLLOW = """
import socket, sys
peer = socket.create_connection(("10.213.71.1", int(sys.argv[1])))
peer.sendall(b"POST /stream HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 4\\r\\n\\r\\n\\0\\0\\0\\0")
while data := peer.recv(65536):
    print(len(data), flush=True)
"""


def test_a_replica_that_the_network_lost_is_dropped_within_five_seconds(tmp_path: Path, network: Network) -> None:
    """Nothing is refused and nothing is reset: its packets are gone."""
    primary = LitefsNode(tmp_path / "primary")
    text = primary.config_path.read_text()
    primary.config_path.write_text(text.replace(f'addr: "127.0.0.1:{primary.port}"', f'addr: ":{primary.port}"'))
    primary.start()
    try:
        await_true(lambda: "HTTP API at" in primary.log_text(), "it listens")  # its mount is there before
        command = ["nsenter", f"--net=/run/netns/{network.name}", sys.executable, "-c", FOLLOW, str(primary.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            for _ in range(3):  # head, Ready, a heartbeat
                assert follower.stdout.readline()
            assert _followers(primary) == 1
            network.cut()
            began = time.monotonic()
            await_true(lambda: _followers(primary) == 0, "the primary drops it")
            assert time.monotonic() - began < 5 + LATE_S
            follower.kill()
    finally:
        primary.stop()


def test_a_primary_that_stands_still_is_left_within_five_seconds(own_cluster: Cluster) -> None:
    """Its kernel goes on acknowledging; only the heartbeats stop. When it goes on, so does the replica."""
    filled(own_cluster, "DELETE")
    own_cluster.sync()
    pid = own_cluster.primary.child_pid("litefs.cli.node_process")
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        await_true(lambda: "timed out" in own_cluster.replica.log_text(), "the replica gives up")
        assert time.monotonic() - began < 5 + LATE_S
        await_true(lambda: own_cluster.replica.read(".primary") == "", "no primary is shown")
    finally:
        os.kill(pid, signal.SIGCONT)
    own_cluster.writers.connect().sql("INSERT INTO t VALUES (1000, 'x')")
    own_cluster.check()


def test_a_wrong_token_is_told_once_and_nothing_is_applied(tmp_path: Path, own_cluster: Cluster) -> None:
    filled(own_cluster, "WAL")
    own_cluster.sync()
    for node in (own_cluster.primary, own_cluster.replica):
        node.environment["LITEFS_TOKEN"] = TOKEN
    own_cluster.primary.restart()
    # The replica still has none.
    await_true(lambda: "401 token required" in own_cluster.replica.log_text(), "it is refused")
    own_cluster.writers.close()
    position = own_cluster.replica_position()
    own_cluster.writers.connect().sql("INSERT INTO t VALUES (1000, 'x')")
    stranger = follower_of(own_cluster.primary, tmp_path / "stranger", extra=QUICK)
    stranger.environment["LITEFS_TOKEN"] = TOKEN + "-not"
    stranger.start()
    try:
        await_true(lambda: "401 wrong token" in stranger.log_text(), "it is refused")
        assert own_cluster.primary.log_text().count("wrong token") == 1
    finally:
        stranger.stop()
    assert stranger.log_text().count("401") == 1
    assert own_cluster.replica_position() == position
    own_cluster.replica.restart()
    own_cluster.check()
    assert _followers(own_cluster.primary, TOKEN) == 1


def test_a_node_of_another_cluster_takes_nothing(tmp_path: Path, own_cluster: Cluster) -> None:
    filled(own_cluster, "DELETE")
    own_cluster.sync()
    stranger = follower_of(own_cluster.primary, tmp_path / "stranger", extra=QUICK)
    (stranger.data_dir / "clusterid").write_text("LFSC0000000000000001\n")
    stranger.start()
    try:
        await_true(lambda: "409 this node belongs to cluster" in stranger.log_text(), "it is refused")
        await_true(
            lambda: own_cluster.primary.log_text().count("the caller to LFSC0000000000000001") == 1, "it is said"
        )
        assert stranger.read(own_cluster.writers.path().name + "-pos") == ""
        assert _refusals(stranger) == 1
    finally:
        stranger.stop()

"""What can happen to a cluster. Each fault breaks something, lasts, and is undone; the cluster repairs the rest.

Bounds: sessions expire at twice their TTL, so a primary that is gone is replaced after some 5 s here.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.cluster import CONSUL, NODES, ChaosCluster, Node
from tests.support.consul_cluster import KEY
from tests.support.filesystem_node import NodeFailedError

LONG_S = 7.0
"""Longer than it takes to elect another primary."""

HANGING_S = 16.0
"""Ten seconds until it is noticed, less than a TTL until the lease is free, and some for the next primary."""

LEFT_BYTES = 6 << 20
"""Half as much again as the space that a node wants to be free before a transaction begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault. `weight`: how often it is drawn; `run` returns words for the log."""

    weight: int
    run: Callable[[ChaosCluster, random.Random], str]

    @property
    def name(self) -> str:
        """What `--only` calls it."""
        return self.run.__name__.removeprefix("_")


def victim(cluster: ChaosCluster, draw: random.Random) -> Node:
    """Returns the primary more often than not."""
    primary = cluster.primary()
    if primary is not None and draw.random() < 0.6:
        return primary
    return cluster.nodes[draw.choice(NODES)]


def _kill_one(cluster: ChaosCluster, draw: random.Random) -> str:
    return _kill_one_of(victim(cluster, draw), draw)


def _kill_one_of(node: Node, draw: random.Random) -> str:
    program = draw.choice(["litefs.cli.filesystem_process", "litefs.cli.node_process"])
    try:
        os.kill(node.child_pid(program), signal.SIGKILL)
    except (NodeFailedError, ProcessLookupError):
        return f"{node.name} had no {program} to kill"
    return f"killed {program} of {node.name}"


def _kill_all(cluster: ChaosCluster, draw: random.Random) -> str:
    node = victim(cluster, draw)
    node.kill()
    pause_s = draw.choice([0.0, LONG_S])
    time.sleep(pause_s)
    node.start()
    return f"killed {node.name} and started it after {pause_s:.0f} s"


def _kill_supervisor(cluster: ChaosCluster, draw: random.Random) -> str:
    node = victim(cluster, draw)
    pids = node.pids()
    os.kill(node.pid, signal.SIGKILL)
    cluster.await_true(lambda: not any(map(_is_running, pids[1:])), "the processes of a dead supervisor end")
    node.restart()
    return f"killed the supervisor of {node.name}"


def _restart(cluster: ChaosCluster, draw: random.Random) -> str:
    node = victim(cluster, draw)
    node.restart()
    return f"restarted {node.name}"


def _stall(cluster: ChaosCluster, draw: random.Random) -> str:
    node = victim(cluster, draw)
    pids = node.pids() if draw.random() < 0.5 else [_pid_of_node_process(node)]
    pause_s = draw.uniform(0.5, LONG_S)
    stopped = [pid for pid in pids if _signalled(pid, signal.SIGSTOP)]
    time.sleep(pause_s)
    for pid in stopped:
        _signalled(pid, signal.SIGCONT)
    return f"stopped {len(stopped)} processes of {node.name} for {pause_s:.1f} s"


def _hang(cluster: ChaosCluster, draw: random.Random) -> str:
    """Half of the time for longer than a primary may hang and keep its lease."""
    node = victim(cluster, draw)
    pause_s = draw.choice([draw.uniform(0.5, LONG_S), HANGING_S])
    try:
        pid = node.child_pid("litefs.cli.filesystem_process")
    except NodeFailedError:
        return f"{node.name} had no filesystem process to stop"
    _signalled(pid, signal.SIGSTOP)
    time.sleep(pause_s)
    _signalled(pid, signal.SIGCONT)
    return f"stopped the filesystem process of {node.name} for {pause_s:.1f} s"


def _delete_key(cluster: ChaosCluster, _draw: random.Random) -> str:
    cluster.agent.request("DELETE", f"/v1/kv/{KEY}")
    return "deleted the key of the lease"


def _pid_of_node_process(node: Node) -> int:
    try:
        return node.child_pid("litefs.cli.node_process")
    except NodeFailedError:
        return node.pid


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _signalled(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _freeze_consul(cluster: ChaosCluster, draw: random.Random) -> str:
    pause_s = draw.uniform(0.5, LONG_S)
    cluster.agent.freeze()
    time.sleep(pause_s)
    cluster.agent.thaw()
    return f"froze Consul for {pause_s:.1f} s"


def _fill_disk(cluster: ChaosCluster, draw: random.Random) -> str:
    """Leaves nothing, or less than a node keeps in reserve, or a little more. A process may have to start so."""
    node = victim(cluster, draw)
    left_bytes = draw.choice([0, draw.randrange(LEFT_BYTES)])
    pause_s = draw.uniform(1.0, HANGING_S)
    node.disk.fill(left_bytes)
    killed = _kill_one_of(node, draw) if draw.random() < 0.3 else "killed nothing"
    time.sleep(pause_s)
    node.disk.empty()
    return f"left {left_bytes >> 10} KiB on the disk of {node.name} for {pause_s:.1f} s, and {killed}"


def _set_clock(cluster: ChaosCluster, draw: random.Random) -> str:
    """For good, or until the next time that it is this node's turn."""
    node = victim(cluster, draw)
    seconds = draw.choice([1, -1]) * draw.choice([2, 60, 3600, 86400 * 400])
    node.clock.set_ahead(seconds)
    return f"set the wall clock of {node.name} {seconds} s ahead"


def _partition(cluster: ChaosCluster, draw: random.Random) -> str:
    node = victim(cluster, draw)
    other = draw.choice([name for name in (*NODES, CONSUL) if name != node.name])
    kind = draw.choice(["isolate", "both ways", "to", "from"])
    pause_s = draw.uniform(1.0, LONG_S)
    if kind == "isolate":
        cluster.network.isolate(node.name)
    if kind in ("both ways", "to"):
        cluster.network.cut(node.name, other)
    if kind in ("both ways", "from"):
        cluster.network.cut(other, node.name)
    time.sleep(pause_s)
    cluster.network.heal()
    between = "everybody" if kind == "isolate" else f"{other} ({kind})"
    return f"cut {node.name} off from {between} for {pause_s:.1f} s"


def _hand_off(cluster: ChaosCluster, draw: random.Random) -> str:
    node = cluster.nodes[draw.choice(NODES)]
    return f"asked {node.name} to be promoted: {node.ask_to_lead()}"


FAULTS = [
    Fault(weight=3, run=_kill_one),
    Fault(weight=2, run=_kill_all),
    Fault(weight=1, run=_kill_supervisor),
    Fault(weight=1, run=_restart),
    Fault(weight=3, run=_stall),
    Fault(weight=1, run=_hang),
    Fault(weight=1, run=_delete_key),
    Fault(weight=2, run=_freeze_consul),
    Fault(weight=2, run=_fill_disk),
    Fault(weight=1, run=_set_clock),
    Fault(weight=4, run=_partition),
    Fault(weight=2, run=_hand_off),
]

"""Shows a cluster: three nodes and a Consul on this machine, and an application that goes where it may write.

    make demo-cluster

Every step checks what it claims; the exit code is 1 when one of them does not hold. Nothing is left behind.
"""

import os
import signal
import sys
import time

from demo.steps import ClaimFailedError, expect, perform, position, say, sqlite
from tests.support import children
from tests.support.consul_cluster import NODE, ConsulCluster, ConsulNode

DEMO_TIMEOUT_S = 170.0
PATIENCE_S = 30.0
TTL_S = 2.0
DATABASE = "app.db"


def await_row(node: ConsulNode, text: str) -> None:
    """Waits until a node shows a row; raises when it does not."""
    query = f"SELECT count(*) FROM note WHERE text = '{text}';"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done = children.run(["sqlite3", "-batch", node.mount_dir / DATABASE, query], free=node.free)
        if done.out.strip() == "1":
            expect(f"node {node.root.name} shows the row {text!r}", True)
            return
        time.sleep(0.02)
    raise ClaimFailedError(f"node {node.root.name} does not show the row {text!r}")


def insert(node: ConsulNode, text: str) -> bool:
    """Tries to write on one node, in silence. Returns whether SQLite said yes."""
    statement = f"INSERT INTO note VALUES ('{text}');"
    done = children.run(["sqlite3", "-batch", node.mount_dir / DATABASE, statement], free=node.free)
    return done.code == 0 and not done.err


def insert_anywhere(nodes: list[ConsulNode], text: str) -> tuple[ConsulNode, float]:
    """Goes from node to node until one takes the row. Returns it, and how long that took in seconds."""
    begun = time.monotonic()
    while time.monotonic() < begun + PATIENCE_S:
        for node in nodes:
            if insert(node, text):
                return node, time.monotonic() - begun
    raise ClaimFailedError(f"no node takes the row {text!r}")


def elect(cluster: ConsulCluster) -> ConsulNode:
    """Starts everything and shows who leads."""
    say(f"Three nodes start. Whoever gets the lease in Consul (TTL {TTL_S:.0f} s) is primary.")
    cluster.start()
    primary = cluster.await_primary()
    for node in cluster.nodes:
        print(f"  {node.root.name}$ cat .primary\n    {node.read('.primary').strip() or '(no such file: it leads)'}")
    sqlite(primary, DATABASE, "PRAGMA journal_mode = wal;\nCREATE TABLE note (text);")
    sqlite(primary, DATABASE, "INSERT INTO note VALUES ('first');")
    for node in cluster.others(primary):
        await_row(node, "first")
    return primary


def fail_over(cluster: ConsulCluster, primary: ConsulNode) -> ConsulNode:
    """Kills a whole node."""
    say(f"SIGKILL of all processes of node {primary.root.name}, the primary. Its session expires, another one leads.")
    primary.kill()
    successor, took_s = insert_anywhere(cluster.others(primary), "after the failover")
    expect(f"node {successor.root.name} takes writes after {took_s:.1f} s", True)
    say(f"Node {primary.root.name} starts again and follows.")
    primary.start()
    await_row(primary, "after the failover")
    await_row(primary, "first")
    return successor


def hand_over(cluster: ConsulCluster, primary: ConsulNode) -> ConsulNode:
    """Moves the lease on purpose."""
    successor = cluster.others(primary)[0]
    say(f"POST /promote on node {successor.root.name}: the primary hands it the lease when it has everything.")
    status = successor.post("/promote")
    expect("answered with 200", status == 200, str(status))
    writer, took_s = insert_anywhere([successor], "after the handoff")
    expect(f"node {writer.root.name} takes a row within {took_s * 1000:.0f} ms, the start of sqlite3 included", True)
    for node in cluster.others(successor):
        await_row(node, "after the handoff")
    return successor


def heal_split(cluster: ConsulCluster, primary: ConsulNode) -> None:
    """Has two histories come about, and one of them go."""
    name = primary.root.name
    say(f"A split: the node process of {name} is frozen. Its mount takes commits until the lease may be another's.")
    frozen = primary.child_pid(NODE)
    os.kill(frozen, signal.SIGSTOP)
    try:
        taken = insert(primary, "written into the split")
        expect("a row that no other node will hear of was committed there", taken)
        deadline = time.monotonic() + PATIENCE_S
        while insert(primary, "one more") and time.monotonic() < deadline:
            time.sleep(0.1)
        expect("then commits are refused there, before another node leads", not insert(primary, "one more"))
        successor, took_s = insert_anywhere(cluster.others(primary), "on the other side")
        expect(f"node {successor.root.name} leads after {took_s:.1f} s more", True)
    finally:
        os.kill(frozen, signal.SIGCONT)
    say(f"{name} goes on, finds that it has another history than the primary, and takes the primary's.")
    await_row(primary, "on the other side")
    seen = sqlite(primary, DATABASE, "SELECT count(*) FROM note WHERE text = 'written into the split';")
    expect("the row of the split is not in the history of the cluster", seen == "0", seen)
    positions = {position(node, DATABASE) for node in cluster.nodes}
    expect(f"all three nodes are at {min(positions)}", len(positions) == 1, str(positions))


def show(cluster: ConsulCluster) -> None:
    """Shows everything, on nodes that do not run yet."""
    primary = elect(cluster)
    primary = fail_over(cluster, primary)
    primary = hand_over(cluster, primary)
    heal_split(cluster, primary)


if __name__ == "__main__":
    sys.exit(perform(lambda root: ConsulCluster(root, 3, ttl_s=TTL_S), show, timeout_s=DEMO_TIMEOUT_S))

"""A second machine of the cluster, for the time of some tests: it can be cut off, lose its power, and come back.

    host ── node1 ──── veth "node2" · eth0 ──── node2
            └─ pods                             └─ pods

Strategy: packets between the nodes are dropped where they arrive, on both sides, without a word to who sent them. So it
is after a loss of power, too: an address of a machine that is off is not refused by anybody.
"""

import shutil

from e2e import cluster, images
from e2e.commands import run, succeeds
from e2e.components import PAUSE_IMAGE
from e2e.kubectl import Kubectl
from e2e.layout import NODE1, NODE2, Node
from e2e.target import Target


class SecondNode:
    """`NODE2`, of a cluster of our own."""

    def __init__(self, kubectl: Kubectl) -> None:
        """Args: kubectl: for the namespace that has pods on it."""
        self._kubectl = kubectl

    def start(self, target: Target) -> None:
        """Returns when pods of sidecars and applications can be scheduled there."""
        names = (PAUSE_IMAGE, target.sidecar_image, target.application_image)
        cluster.start_node(NODE2, _connect, [images.archive_of(name) for name in names])

    def cut_off(self) -> None:
        """Nothing gets from one node to the other any more."""
        for node in (NODE1, NODE2):
            run(_filter("-I", node))

    def reconnect(self) -> None:
        """Undoes `cut_off`."""
        for node in (NODE1, NODE2):
            run(_filter("-D", node))

    def power_off(self) -> None:
        """Ends everything on it at once; nobody hears of the end of a connection."""
        self.cut_off()
        cluster.power_off(NODE2)

    def boot(self) -> None:
        """Undoes `power_off`: its disks are as they were."""
        cluster.start_node(NODE2, _connect, [])

    def remove(self) -> None:
        """Removes it with the pods of the namespace on it, whatever state it is in."""
        cluster.power_off(NODE2)
        on_it = ["--field-selector", f"spec.nodeName={NODE2.name}"]
        self._kubectl("delete", "node", NODE2.name, "--ignore-not-found")
        self._kubectl("delete", "pods", *on_it, "--force", "--grace-period=0")
        cluster.remove_cgroups(NODE2)
        shutil.rmtree(NODE2.state, ignore_errors=True)


_INTERFACES = {NODE1.name: NODE2.name, NODE2.name: "eth0"}
"""The ends of the link, by node."""


def _filter(action: str, node: Node) -> list[str]:
    rule = ["PREROUTING", "-i", _INTERFACES[node.name], "-j", "DROP"]
    return [*_inside(node), "iptables", "-t", "raw", action, *rule]


def _connect() -> None:
    # What a loss of power has left.
    succeeds(_filter("-D", NODE1))
    succeeds([*_inside(NODE1), "ip", "link", "delete", NODE2.name])
    link = ["ip", "link", "add", NODE2.name, "type", "veth", "peer", "name", "eth0"]
    run([*_inside(NODE1), *link, "netns", str(cluster.init_pid(NODE2))])
    for command in (
        ["addr", "add", f"{NODE2.gateway}/30", "dev", NODE2.name],
        ["link", "set", NODE2.name, "up"],
        ["route", "replace", str(NODE2.pods), "via", NODE2.link_address],
        # Where the packets go when the link is gone: to the host they would not stay unanswered.
        ["route", "replace", "blackhole", str(NODE2.pods), "metric", "1000"],
    ):
        run([*_inside(NODE1), "ip", *command])


def _inside(node: Node) -> list[str]:
    return ["nsenter", f"--net=/proc/{cluster.init_pid(node)}/ns/net"]

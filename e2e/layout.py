"""Names, addresses and paths of the test cluster, in one place: both sides of its namespaces use them."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

STATE = Path("/var/lib/litefs-e2e")
"""Everything of a cluster; `e2e-down` removes it. On a disk: containerd unpacks images there."""

LOCK = Path("/run/litefs-e2e.lock")
"""Of whoever uses the cluster; not in `STATE`, which comes and goes."""

LINK = "litefs-e2e"
"""The host's end of the link into the cluster's network namespace."""

POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
CGROUP = "litefs-e2e"

KUBELET_ROOT = Path("/var/lib/kubelet")
"""Also hard-coded in the kubelet, for its device plugins. In the cluster's mounts it is a directory of `STATE`."""

PROGRAMS_LINK = STATE / "programs"
KUBECONFIG = STATE / "pki" / "admin.conf"
VOLUMES = STATE / "volumes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster: a set of namespaces.

    Attributes:
        name: of its object.
        state: directory of everything that is its own.
        pods: their network; its first address is the node's.
        gateway: the other end of its link.
        link_address: its own end, `eth0`.
        cgroup: below which its pods are.
    """

    name: str
    state: Path
    pods: ipaddress.IPv4Network
    gateway: str
    link_address: str
    cgroup: str

    @property
    def address(self) -> str:
        """Of the bridge of its pods: it is there before any pod, and is not loopback."""
        return str(self.pods[1])

    @property
    def logs(self) -> Path:
        """What its components and its pods have written."""
        return self.state / "log"

    @property
    def init_pid(self) -> Path:
        """File with the PID, on the host, of its first process."""
        return self.state / "init.pid"

    @property
    def containerd_socket(self) -> Path:
        """Of its container runtime."""
        return self.state / "containerd.sock"


NODE1 = Node(
    name="node1",
    state=STATE,
    pods=ipaddress.IPv4Network("10.244.0.0/24"),
    gateway="10.246.0.1",
    link_address="10.246.0.2",
    cgroup=CGROUP,
)
"""Has the control plane, and a link to the host."""

NODE2 = Node(
    name="node2",
    state=STATE / "node2",
    pods=ipaddress.IPv4Network("10.244.2.0/24"),
    gateway="10.246.0.5",
    link_address="10.246.0.6",
    cgroup=f"{CGROUP}/node2",
)
"""Is there while a test needs it, with a link to the first."""

NODE_ADDRESS = NODE1.address
"""Where the API server and DNS are."""

"""Names, addresses and paths of the test cluster, in one place: both sides of its namespaces use them."""

from pathlib import Path

STATE = Path("/var/lib/litefs-e2e")
"""Everything of a cluster; `e2e-down` removes it. On a disk: containerd unpacks images there."""

LOCK = Path("/run/litefs-e2e.lock")
"""Of whoever uses the cluster; not in `STATE`, which comes and goes."""

LINK = "litefs-e2e"
"""The host's end of the link into the cluster's network namespace."""

HOST_ADDRESS = "10.246.0.1"
LINK_ADDRESS = "10.246.0.2"
NODE_ADDRESS = "10.244.0.1"
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
NODE = "node1"
CGROUP = "litefs-e2e"

KUBELET_ROOT = Path("/var/lib/kubelet")
"""Also hard-coded in the kubelet, for its device plugins. In the cluster's mounts it is a directory of `STATE`."""

INIT_PID = STATE / "init.pid"
PROGRAMS_LINK = STATE / "programs"
KUBECONFIG = STATE / "pki" / "admin.conf"
CONTAINERD_SOCKET = STATE / "containerd.sock"
LOGS = STATE / "log"
VOLUMES = STATE / "volumes"

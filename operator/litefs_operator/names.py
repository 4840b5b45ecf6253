"""The names that the operator, the chart and people share: annotations, labels, containers, volumes, ports."""

from typing import Final

GROUP: Final = "litefs.io"
VERSION: Final = "v1alpha1"
KIND: Final = "LiteFSCluster"
PLURAL: Final = "litefsclusters"

OPERATOR: Final = "litefs-operator"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"

# What a person writes on a pod.
INJECT: Final = f"{GROUP}/inject"
CLUSTER: Final = f"{GROUP}/cluster"
"""An annotation that names the LiteFSCluster, and the label that the webhook copies it to."""
MOUNT_PATH: Final = f"{GROUP}/mount-path"
DATA_VOLUME: Final = f"{GROUP}/data-volume"
CANDIDATE: Final = f"{GROUP}/candidate"
CONTAINERS: Final = f"{GROUP}/containers"
IMAGE: Final = f"{GROUP}/image"
LOG_DEBUG: Final = f"{GROUP}/log-debug"
RESOURCE_ANNOTATIONS: Final = {
    f"{GROUP}/cpu-request": ("requests", "cpu"),
    f"{GROUP}/cpu-limit": ("limits", "cpu"),
    f"{GROUP}/memory-request": ("requests", "memory"),
    f"{GROUP}/memory-limit": ("limits", "memory"),
}
INPUT_ANNOTATIONS: Final = frozenset(
    {INJECT, CLUSTER, MOUNT_PATH, DATA_VOLUME, CANDIDATE, CONTAINERS, IMAGE, LOG_DEBUG, *RESOURCE_ANNOTATIONS}
)

# What the webhook writes on a pod.
STATUS: Final = f"{GROUP}/status"
STATUS_INJECTED: Final = "injected"
CONFIG: Final = f"{GROUP}/config"
"""The litefs.yml of this pod's sidecar, which reads it through the downward API."""
REVISION: Final = f"{GROUP}/revision"
"""Stands for what of the LiteFSCluster and the installation the pod was made with: the operator sees what changed."""
OUTPUT_ANNOTATIONS: Final = frozenset({STATUS, CONFIG, REVISION})

SCRAPE: Final = "prometheus.io/scrape"
SCRAPE_PORT: Final = "prometheus.io/port"
SCRAPE_PATH: Final = "prometheus.io/path"

# What the pod gets.
CONTAINER: Final = "litefs"
MOUNT_VOLUME: Final = "litefs-mount"
DATA_VOLUME_DEFAULT: Final = "litefs-data"
CONFIG_VOLUME: Final = "litefs-config"
CONSUL_CA_VOLUME: Final = "litefs-consul-ca"

MOUNT_PARENT: Final = "/litefs-mount"
"""Where the sidecar sees the shared volume. The file system is mounted in a directory of it, never on itself: a
container whose own mount is a dead FUSE cannot be started again."""
DATA_DIR: Final = "/var/lib/litefs"
CONFIG_DIR: Final = "/etc/litefs"
CONFIG_FILE: Final = "litefs.yml"
CONSUL_CA_DIR: Final = "/etc/litefs-consul"

TOKEN_KEY: Final = "token"  # noqa: S105 - the key of it in the Secret


def token_secret(cluster: str) -> str:
    """The Secret with the token that the nodes of `cluster` share."""
    return f"{cluster}-litefs-token"


def nodes_service(cluster: str) -> str:
    """The headless Service of `cluster`: the `serviceName` of a StatefulSet whose pods are to have DNS names."""
    return f"{cluster}-nodes"

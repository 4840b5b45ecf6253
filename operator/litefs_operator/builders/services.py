"""The Services of a LiteFSCluster, and its PodDisruptionBudget.

    NAME-rw      the primary: selects by the node's id, so that it moves by one write and never has two addresses
    NAME-ro      replicas
    NAME-r       every node
    NAME-nodes   headless, with the names of pods that are not ready yet: the nodes reach each other through it

Strategy: all are owned by the LiteFSCluster and go with it.
"""

from typing import Any, Final

from litefs_operator import names
from litefs_operator.crd import ClusterSpec

Manifest = dict[str, Any]

ROLE: Final = f"{names.GROUP}/role"
"""Label for people, and for NAME-ro: primary or replica."""

NODE: Final = f"{names.GROUP}/node"
"""Label with a node's id, written once, when the node first answers."""

NO_NODE = "none"
"""What NAME-rw selects while there is no primary: no node has this id."""


def services(cluster: Manifest, spec: ClusterSpec, *, primary_node: str | None) -> list[Manifest]:
    """Returns the four Services.

    Args:
        cluster: the LiteFSCluster, as the API server has it.
        spec: of it, parsed.
        primary_node: id of the primary, as its pod's label has it; None if there is none.
    """
    name = cluster["metadata"]["name"]
    member = {names.CLUSTER: name}
    headless = {"clusterIP": "None", "publishNotReadyAddresses": True}
    api = [_port("litefs", spec.http.port, spec.http.port)]
    ports = [*api, *(_port(entry.name, entry.port, entry.target_port or entry.port) for entry in spec.service.ports)]
    return [
        _service(cluster, rw_service(name), {**member, NODE: primary_node or NO_NODE}, ports, {}),
        _service(cluster, f"{name}-ro", {**member, ROLE: "replica"}, ports, {}),
        _service(cluster, f"{name}-r", member, ports, {}),
        _service(cluster, names.nodes_service(name), member, api, headless),
    ]


def rw_service(cluster: str) -> str:
    """The name of the Service of a cluster's primary."""
    return f"{cluster}-rw"


def disruption_budget(cluster: Manifest, *, member_n: int) -> Manifest | None:
    """Returns the budget that lets one node at a time be drained; None for a single node, which it would never let go.

    Args:
        cluster: the LiteFSCluster, as the API server has it.
        member_n: nodes, without those of Jobs. A number, because Kubernetes cannot compute `maxUnavailable` where
            pods of Jobs are among the selected, and then refuses every eviction.
    """
    if member_n < 2:
        return None
    # Only pods that answered as nodes have a role; those of Jobs get none.
    selector = {
        "matchLabels": {names.CLUSTER: cluster["metadata"]["name"]},
        "matchExpressions": [{"key": ROLE, "operator": "Exists"}],
    }
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(cluster, cluster["metadata"]["name"]),
        # A pod that is not Ready serves nobody, and one that never gets Ready would block every drain.
        "spec": {
            "minAvailable": member_n - 1,
            "selector": selector,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _port(name: str, port: int, target: int | str) -> Manifest:
    return {"name": name, "port": port, "targetPort": target, "protocol": "TCP"}


def _service(cluster: Manifest, name: str, selector: dict[str, str], ports: list[Manifest], more: Manifest) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(cluster, name),
        "spec": {"selector": selector, "ports": ports, **more},
    }


def _metadata(cluster: Manifest, name: str) -> Manifest:
    metadata = cluster["metadata"]
    owner = {
        "apiVersion": f"{names.GROUP}/{names.VERSION}",
        "kind": names.KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "name": name,
        "namespace": metadata["namespace"],
        "labels": {names.CLUSTER: metadata["name"], names.MANAGED_BY: names.OPERATOR},
        "ownerReferences": [owner],
    }

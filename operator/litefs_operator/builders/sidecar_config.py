"""The litefs.yml of one pod's sidecar.

Strategy: JSON is YAML, and what json writes needs no rules about quoting. `${POD_IP}` is expanded by the sidecar: the
address is not known when the pod is admitted. Everything else is free of `$` by the schema.
"""

import json
from dataclasses import dataclass
from typing import Any

from litefs_operator import names
from litefs_operator.crd import ClusterSpec, LeaseType


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """What of a pod its configuration depends on.

    Attributes:
        namespace: of the pod.
        cluster: name of its LiteFSCluster.
        candidate: it may become primary; with a static lease, it is the primary.
        resolvable: it has a DNS name in the cluster's headless Service.
        mount_name: the directory below `names.MOUNT_PARENT` that the file system is mounted on.
        consul_url: where the lease is kept; "" with a static lease.
        debug: write debug lines.
    """

    namespace: str
    cluster: str
    candidate: bool
    resolvable: bool
    mount_name: str
    consul_url: str
    debug: bool


def litefs_yml(spec: ClusterSpec, place: NodePlace) -> str:
    """Returns the text of the file."""
    document: dict[str, Any] = {
        "fuse": {
            "dir": f"{names.MOUNT_PARENT}/{place.mount_name}",
            "allow-other": True,
            "low-latency": spec.mount.low_latency,
        },
        "data": {
            "dir": names.DATA_DIR,
            "durability": str(spec.durability),
            "retention": spec.data.retention,
            "replica-retention": spec.data.replica_retention,
            "replica-retention-size": spec.data.replica_retention_size,
            "compress": spec.data.compress,
        },
        "http": {"addr": f":{spec.http.port}", "open-metrics": spec.metrics.scrape},
        "lease": _lease(spec, place),
        "log": {"format": str(spec.log.format), "timestamp": False, "debug": place.debug},
    }
    return json.dumps(document, indent=2) + "\n"


def lease_place(text: str) -> str:
    """Returns where a sidecar with this configuration finds the primary's lease; "" if the text is none of ours."""
    try:
        lease = json.loads(text)["lease"]
        consul = lease.get("consul")
        place: str = lease["advertise-url"] if consul is None else f"{consul['url']}, key {consul['key']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return place


def _lease(spec: ClusterSpec, place: NodePlace) -> dict[str, Any]:
    domain = f"{names.nodes_service(place.cluster)}.{place.namespace}.svc"
    if spec.lease.type is LeaseType.STATIC:
        assert spec.lease.static is not None
        primary = spec.lease.static.primary
        return {
            "type": "static",
            "candidate": place.candidate,
            "hostname": primary,
            "advertise-url": f"http://{primary}.{domain}:{spec.http.port}",
        }
    host = f"${{POD_NAME}}.{domain}" if place.resolvable else "${POD_IP}"
    consul = spec.lease.consul
    return {
        "type": "consul",
        "candidate": place.candidate,
        "hostname": "${POD_NAME}",
        "advertise-url": f"http://{host}:{spec.http.port}",
        "consul": {
            "url": place.consul_url,
            "key": consul.key or f"litefs/{place.namespace}/{place.cluster}",
            "ttl": consul.ttl,
            "lock-delay": consul.lock_delay,
        },
    }

"""What was seen of a LiteFSCluster: the records that decisions are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from litefs_operator import names
from litefs_operator.builders.services import NODE, ROLE
from litefs_operator.builders.sidecar_config import lease_place
from litefs_operator.consul import Holder
from litefs_operator.crd import ClusterSpec
from litefs_operator.node_client import Probe
from litefs_operator.pod_request import controller_of

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What is kept of a pod.

    Attributes:
        cluster: name of its LiteFSCluster.
        ip: "" before it has one.
        port: of its sidecar, as it was when the pod was created; 0 if it has none.
        node_name: the machine; "" before it has one.
        node: its label `litefs.io/node`; "" before the node first answered.
        role: its label `litefs.io/role`; "" before the node first answered.
        is_ready: Kubernetes sends it traffic.
        is_ending: it was told to end.
        is_over: its containers ended for good.
        is_job: it belongs to a Job: not counted, and no candidate by default.
        controller: uid of the StatefulSet, ReplicaSet or Job that it belongs to; "" if to none.
        claim: the PersistentVolumeClaim that its data are in; "" where they go with the pod.
        labels: all of them.
        revision: what it was made with, `injection.revision_of`; "" if it was not injected.
        lease: where its sidecar keeps the lease, `lease_place`; "" if it was not injected.
    """

    namespace: str
    name: str
    uid: str
    cluster: str
    ip: str
    port: int
    node_name: str
    node: str
    role: str
    is_ready: bool
    is_ending: bool
    is_over: bool
    is_job: bool
    controller: str
    claim: str
    labels: Mapping[str, str]
    revision: str
    lease: str

    @property
    def counts(self) -> bool:
        """Whether it is one of the nodes that the cluster should have."""
        return not (self.is_ending or self.is_over or self.is_job)


def member_of(pod: Manifest) -> Member:
    """Returns what is kept of a pod."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    labels: Mapping[str, str] = metadata.get("labels") or {}
    conditions = status.get("conditions") or []
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    return Member(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        cluster=labels.get(names.CLUSTER, ""),
        ip=status.get("podIP", ""),
        port=_port_of(spec),
        node_name=spec.get("nodeName", ""),
        node=labels.get(NODE, ""),
        role=labels.get(ROLE, ""),
        is_ready=any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions),
        is_ending="deletionTimestamp" in metadata,
        is_over=status.get("phase") in ("Succeeded", "Failed"),
        is_job=any(owner.get("kind") == "Job" for owner in metadata.get("ownerReferences") or []),
        controller=controller_of(pod),
        claim=_claim_of(metadata, spec),
        labels=labels,
        revision=annotations.get(names.REVISION, ""),
        lease=lease_place(annotations.get(names.CONFIG, "")),
    )


def _port_of(spec: Manifest) -> int:
    sidecars = [entry for entry in spec.get("initContainers") or [] if entry["name"] == names.CONTAINER]
    return next((int(port["containerPort"]) for entry in sidecars for port in entry.get("ports") or []), 0)


def _claim_of(metadata: Manifest, spec: Manifest) -> str:
    name = (metadata.get("annotations") or {}).get(names.DATA_VOLUME, names.DATA_VOLUME_DEFAULT)
    volume: Manifest = next((entry for entry in spec.get("volumes") or [] if entry["name"] == name), {})
    return str((volume.get("persistentVolumeClaim") or {}).get("claimName", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptService:
    """What is kept of a Service.

    Attributes:
        owner: uid of the LiteFSCluster that it belongs to; "" if to none.
        spec: selector, ports and what else we set.
    """

    namespace: str
    name: str
    cluster: str
    owner: str
    spec: Manifest


def service_of(manifest: Manifest) -> KeptService:
    """Returns what is kept of a Service."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    ports = [
        {key: port.get(key) for key in ("name", "port", "targetPort", "protocol")} for port in spec.get("ports") or []
    ]
    kept: Manifest = {"selector": spec.get("selector") or {}, "ports": ports}
    if spec.get("clusterIP") == "None":
        kept["clusterIP"] = "None"
    if spec.get("publishNotReadyAddresses"):
        kept["publishNotReadyAddresses"] = True
    return KeptService(
        namespace=metadata["namespace"],
        name=metadata["name"],
        cluster=(metadata.get("labels") or {}).get(names.CLUSTER, ""),
        owner=_owner_of(metadata),
        spec=kept,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBudget:
    """What is kept of a PodDisruptionBudget.

    Attributes:
        owner: uid of the LiteFSCluster that it belongs to; "" if to none.
        is_made_here: an operator of ours made it, maybe for a LiteFSCluster that was deleted.
        spec: all of it.
    """

    namespace: str
    name: str
    owner: str
    is_made_here: bool
    spec: Manifest


def budget_of(manifest: Manifest) -> KeptBudget:
    """Returns what is kept of a PodDisruptionBudget."""
    metadata = manifest["metadata"]
    owner = _owner_of(metadata)
    return KeptBudget(
        namespace=metadata["namespace"],
        name=metadata["name"],
        owner=owner,
        is_made_here=bool(owner) or (metadata.get("labels") or {}).get(names.MANAGED_BY) == names.OPERATOR,
        spec=manifest["spec"],
    )


def _owner_of(metadata: Manifest) -> str:
    owners = metadata.get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("kind") == names.KIND), "")


class LeaseState(StrEnum):
    """What is known of a lease."""

    STATIC = "static"
    """The spec names the primary."""
    HELD = "held"
    FREE = "free"
    UNREACHABLE = "unreachable"
    """Consul does not answer: the holder keeps it until it runs out, and nobody gets it."""
    HIDDEN = "hidden"
    """Consul does not tell the operator: the nodes are asked."""
    UNKNOWN = "unknown"
    """Consul was not heard yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A cluster's lease.

    Attributes:
        holder: who has it, where it is held.
        message: what is wrong; "" if nothing.
    """

    state: LeaseState
    holder: Holder | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a decision leaves to the next one.

    Attributes:
        primary_node: label of the last primary; "" if there was none.
        free_since: since when nobody holds the lease, in monotonic seconds; None while somebody does.
        member_n: nodes that the disruption budget counts on.
        fewer_since: since when there are fewer than that, in monotonic seconds; None while there are not.
    """

    primary_node: str = ""
    free_since: float | None = None
    member_n: int = 0
    fewer_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that a decision about a cluster is made from.

    Attributes:
        cluster: the LiteFSCluster, as the API server has it.
        spec: of it, parsed.
        revision: what a pod would be made with now, `injection.revision_of`.
        members: its pods, by name, without those that are over.
        probes: what the nodes said last, by uid of the pod.
        lease: see there.
        services: ours, by name.
        budgets: every PodDisruptionBudget of the namespace.
        memory: what the last decision left.
        now: monotonic seconds.
        timestamp: the same moment, as the API server writes it.
    """

    cluster: Manifest
    spec: ClusterSpec
    revision: str
    members: tuple[Member, ...]
    probes: Mapping[str, Probe]
    lease: LeaseView
    services: Mapping[str, KeptService]
    budgets: tuple[KeptBudget, ...]
    memory: Memory = field(default_factory=Memory)
    now: float
    timestamp: str

    @property
    def name(self) -> str:
        """Name of the LiteFSCluster."""
        return str(self.cluster["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Its uid."""
        return str(self.cluster["metadata"]["uid"])

    def is_outdated(self, member: Member) -> bool:
        """Returns whether a node runs with what was asked for before."""
        return member.counts and member.revision != self.revision

    def fresh(self, member: Member) -> Probe | None:
        """Returns what a node said, if that is not too old to count."""
        probe = self.probes.get(member.uid)
        return probe if probe is not None and self.now - probe.at <= FRESH_S else None


FRESH_S = 45.0
"""Twice the longest pause between two probes, and the time that a node has for its answer."""

"""The LiteFSCluster: its spec and status as dataclasses, and the CustomResourceDefinition that is generated from them.

Strategy: text that ends up in litefs.yml has no `$`, because the sidecar expands variables there and knows no escape.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from litefs_operator import names
from litefs_operator.schema import Schema, described, schema_of

_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_PLAIN = r"^[^$\s]+$"


class LeaseType(StrEnum):
    """How the nodes agree on the primary."""

    CONSUL = "consul"
    STATIC = "static"


class CandidateRule(StrEnum):
    """Which pods may become primary."""

    ALL = "all"
    ORDINALS = "ordinals"
    LABELS = "labels"


class Durability(StrEnum):
    """Which commits are answered only when they are on the disk."""

    AS_ASKED = "as-asked"
    EVERY_COMMIT = "every-commit"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """A key of a Secret in the namespace of the cluster."""

    name: str = described("Name of the Secret, in the namespace of the LiteFSCluster.", pattern=_NAME, maxLength=253)
    key: str = described("Key in the Secret.", default="token", minLength=1, maxLength=253)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityKey(SecretKey):
    """One whose value is the certificate of an authority."""

    key: str = described("Key in the Secret.", default="ca.crt", minLength=1, maxLength=253)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consul:
    """The lease in Consul."""

    RULES: ClassVar[dict[str, str]] = {
        "has(self.key) == has(oldSelf.key) && (!has(self.key) || self.key == oldSelf.key)": (
            "lease.consul.key cannot be changed: running pods keep the old lease, and there would be two primaries"
        ),
        "!has(self.ttl) || duration(self.ttl) >= duration('10s') && duration(self.ttl) <= duration('24h')": (
            "lease.consul.ttl: Consul takes from 10s to 24h"
        ),
    }

    url: str | None = described(
        "URL of Consul, https://HOST:PORT/PREFIX. By default the Consul that the operator was installed with. To be "
        "changed only while no pod runs.",
        default=None,
        pattern=r"^https?://[^$\s@]+$",
        maxLength=512,
    )
    key: str | None = described(
        "Key of the lease, one per cluster. By default litefs/NAMESPACE/NAME.",
        default=None,
        pattern=_PLAIN,
        maxLength=512,
    )
    ttl: str = described("How long the lease lasts without renewal, from 10s to 24h.", default="10s", pattern=_DURATION)
    lock_delay: str = described(
        "How long Consul refuses a new primary after one that vanished.", default="1s", pattern=_DURATION
    )
    token_secret_ref: SecretKey | None = described(
        "ACL token of Consul; it needs key:write and session:write.", default=None
    )
    ca_secret_ref: AuthorityKey | None = described("CA that signed Consul's certificate, as PEM.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """A primary by configuration."""

    primary: str = described(
        "Name of the pod that is the primary, for example blog-0. It must be a pod of a StatefulSet whose serviceName "
        "is NAME-nodes. To be changed only while no pod runs.",
        pattern=_NAME,
        maxLength=253,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Which node is the primary."""

    RULES: ClassVar[dict[str, str]] = {
        "self.type != 'static' || has(self.static)": "lease.static.primary is required when lease.type is static",
        "self.type == 'static' || !has(self.static)": "lease.static needs lease.type: static",
        "self.type == oldSelf.type": "lease.type cannot be changed: create another LiteFSCluster and move the data",
    }

    type: LeaseType = described(
        "consul: the nodes agree on a primary by a lease, and another one takes over when it vanishes. static: the "
        "primary is named, and nobody takes over.",
        default=LeaseType.CONSUL,
    )
    consul: Consul = described("The lease in Consul; counts where type is consul.", default=Consul)
    static: Static | None = described("The primary, where type is static.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Databases and log of a node."""

    retention: str = described(
        "How long transactions stay in a node's log. A replica that was away for longer takes a snapshot.",
        default="10m",
        pattern=_DURATION,
    )
    replica_retention: str = described(
        "How long a primary keeps older transactions for a replica that went away.", default="1h", pattern=_DURATION
    )
    replica_retention_size: str = described(
        "Size of a database's log up to which a primary keeps older transactions that a replica still needs, as bytes "
        "or with KB, MB or GB. 0 keeps none.",
        default="1GB",
        pattern=r"^[0-9]+(KB|MB|GB)?$",
    )
    compress: bool = described("Compress transactions by LZ4.", default=True)
    allow_ephemeral: bool = described(
        "Inject pods that have no persistent data volume. Such a node takes a snapshot at every start, and all "
        "data are lost when all pods are gone at once.",
        default=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Which pods may become primary."""

    RULES: ClassVar[dict[str, str]] = {
        "self.rule != 'ordinals' || has(self.below)": "candidates.below is required when candidates.rule is ordinals",
        "self.rule != 'labels' || has(self.matchLabels)": (
            "candidates.matchLabels is required when candidates.rule is labels"
        ),
    }

    rule: CandidateRule = described(
        "all: every pod but those of Jobs. ordinals: pods of a StatefulSet whose ordinal is lower than `below`. "
        "labels: pods with `matchLabels`. The annotation litefs.io/candidate of a pod wins.",
        default=CandidateRule.ALL,
    )
    below: int | None = described("With ordinals: the first ordinal that is no candidate.", default=None, minimum=1)
    match_labels: dict[str, str] | None = described(
        "With labels: the labels of a candidate.", default=None, minProperties=1, maxProperties=16
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """The HTTP API of a node."""

    port: int = described("Port on which the nodes reach each other.", default=20202, minimum=1024, maximum=65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Who reads the metrics of the sidecars."""

    scrape: bool = described(
        "Let a Prometheus that goes by annotations find the sidecars: their pods get prometheus.io/scrape, port and "
        "path, unless they have any of these already, and /metrics is answered without the cluster's token, which such "
        "a Prometheus does not have: names and sizes of the databases are then for whoever reaches the port. Not "
        "needed with metrics.podMonitor of the chart.",
        default=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What a sidecar writes on standard error."""

    format: LogFormat = described("text or json.", default=LogFormat.TEXT)
    debug: bool = described("Write debug lines too.", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Where applications find their databases."""

    path: str = described(
        "Directory of the databases in every container of the pod. What the image has in its parent is hidden, so it "
        "is at least two levels deep. The annotation litefs.io/mount-path wins.",
        default="/litefs/data",
        pattern=r"^(/[A-Za-z0-9._-]+){2,}$",
        maxLength=256,
    )
    low_latency: bool = described(
        "Keep the processors of the machine awake while transactions are written.", default=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the sidecar asks of the machine. There is no memory limit by default: being killed for memory costs more."""

    cpu_request: str = described("CPU request of the sidecar.", default="50m")
    memory_request: str = described("Memory request of the sidecar.", default="128Mi")
    cpu_limit: str | None = described("CPU limit of the sidecar.", default=None)
    memory_limit: str | None = described("Memory limit of the sidecar.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """The container that is injected."""

    image: str | None = described(
        "Image of the sidecar. By default that of the operator's installation.", default=None, maxLength=512
    )
    resources: Resources = described("Requests and limits.", default=Resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """A port of the application."""

    name: str = described("Name of the port.", pattern=r"^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$", maxLength=15)
    port: int = described("Port of the Services.", minimum=1, maximum=65535)
    target_port: int | str | None = described(
        "Port of the pods, a number or the name of a containerPort. By default the same as `port`.", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The Services NAME-rw, NAME-ro and NAME-r."""

    RULES: ClassVar[dict[str, str]] = {
        "!has(self.ports) || self.ports.all(p, p.name != 'litefs')": (
            "service.ports: the port called litefs is that of LiteFS's own API, and is there anyway"
        ),
    }

    ports: tuple[ServicePort, ...] = described(
        "Ports of the application on NAME-rw (the primary), NAME-ro (replicas) and NAME-r (all).",
        default=(),
        maxItems=16,
        **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """What a person asks for."""

    lease: Lease = described("Which node is the primary.", default=Lease)
    data: Data = described("Databases and log of a node.", default=Data)
    durability: Durability = described(
        "Which commits are answered only when they are on the disk of the primary. as-asked: those that the "
        "application asks it for by PRAGMA synchronous; of the others, a power cut takes the last. every-commit: all "
        "of them, and no replica is sent one before.",
        default=Durability.AS_ASKED,
    )
    candidates: Candidates = described("Which pods may become primary.", default=Candidates)
    http: Http = described("The HTTP API of a node.", default=Http)
    metrics: Metrics = described("Who reads the metrics of the sidecars.", default=Metrics)
    log: Log = described("What a sidecar logs.", default=Log)
    mount: Mount = described("Where applications find their databases.", default=Mount)
    sidecar: Sidecar = described("The container that is injected.", default=Sidecar)
    service: Service = described("The Services of the cluster.", default=Service)
    disruption_budget: bool = described(
        "Keep a PodDisruptionBudget that lets one node be drained at a time. There is none for a single node, nor "
        "where another PodDisruptionBudget selects one of the pods.",
        default=True,
    )


_CONDITION: Schema = {
    "type": "object",
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
    "properties": {
        "type": {
            "type": "string",
            "description": "Ready, PrimaryElected, ReplicasSynced, "
            "LeaseBackendReachable, StorageDurable, DisruptionBudget, UpToDate or InjectionBlocked.",
        },
        "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
        "reason": {"type": "string", "description": "Why, in one word for machines."},
        "message": {"type": "string", "description": "Why, in a sentence."},
        "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When status changed last."},
        "observedGeneration": {"type": "integer", "description": "The generation of the spec that this is about."},
    },
}
_NODE: Schema = {
    "type": "object",
    "required": ["pod"],
    "properties": {
        "pod": {"type": "string", "description": "Name of the pod."},
        "role": {"type": "string", "description": "primary or replica, as the node says; empty if it does not answer."},
        "ready": {"type": "boolean", "description": "The node is primary, or has caught up with one."},
        "positions": {
            "type": "object",
            "description": "Position of each database, TXID/CHECKSUM; of the first 20 by name.",
            "additionalProperties": {"type": "string"},
        },
        "outdated": {
            "type": "boolean",
            "description": "The pod was made before the LiteFSCluster or the installation was changed.",
        },
        "job": {"type": "boolean", "description": "The pod belongs to a Job, and is not counted."},
        "lagMs": {"type": "integer", "description": "Milliseconds since the last sign of the primary."},
        "nodeName": {"type": "string", "description": "The machine."},
        "ip": {"type": "string", "description": "Address of the pod."},
        "lastSeen": {"type": "string", "format": "date-time", "description": "When the node answered last."},
    },
}
STATUS_SCHEMA: Schema = {
    "type": "object",
    "description": "What was seen. Written by the operator.",
    "properties": {
        "observedGeneration": {"type": "integer", "description": "The generation of the spec that this is about."},
        "phase": {"type": "string", "description": "One word for people: Pending, NoPrimary, Running, Degraded."},
        "phaseReason": {"type": "string", "description": "Why, in a sentence."},
        "primary": {"type": "string", "description": "Name of the pod that is primary."},
        "nodeCount": {"type": "string", "description": "Nodes that are ready, of all: 3/3. Jobs are not counted."},
        "lagMsMax": {"type": "integer", "description": "Largest lag of a replica, in milliseconds."},
        "nodes": {"type": "array", "description": "The nodes.", "maxItems": 100, "items": _NODE},
        "conditions": {
            "type": "array",
            "description": "What holds, as seen by live probes.",
            "maxItems": 16,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": _CONDITION,
        },
    },
}
_READY = '.status.conditions[?(@.type=="Ready")]'
_COLUMNS = [
    {"name": "Ready", "type": "string", "jsonPath": f"{_READY}.status"},
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Primary", "type": "string", "jsonPath": ".status.primary"},
    {"name": "Nodes", "type": "string", "jsonPath": ".status.nodeCount"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Lag", "type": "integer", "jsonPath": ".status.lagMsMax", "priority": 1},
    {"name": "Reason", "type": "string", "jsonPath": f"{_READY}.reason", "priority": 1},
]


def custom_resource_definition() -> Schema:
    """Returns the manifest of the CRD."""
    schema: Schema = {
        "type": "object",
        "description": "A group of pods that share SQLite databases.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(ClusterSpec, "What is asked for. An empty spec is a good one."),
            "status": STATUS_SCHEMA,
        },
        # NAME-nodes and NAME-rw are names of Services, which are DNS labels of at most 63 characters.
        "x-kubernetes-validations": [
            {
                "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$')",
                "message": "metadata.name must be a DNS label of at most 48 characters that begins with a letter: "
                "the names of Services are made from it",
            }
        ],
    }
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": _COLUMNS,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{names.PLURAL}.{names.GROUP}",
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": "litefscluster",
                "shortNames": ["lfs"],
                "categories": ["litefs"],
            },
            "versions": [version],
        },
    }

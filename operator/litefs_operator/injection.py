"""A pod as it came → the pod with a LiteFS sidecar. Pure: no clock, no chance, no API.

Strategy: the pod is a plain object and is copied, so that fields nobody here knows pass through. Each piece is added
if it is missing. A piece that is there already must be the one we would add: a user's hostPath volume under our name
would otherwise reach a privileged container. The API server calls a second time when others changed the pod meanwhile;
what its own plug-ins add to every container is let pass.

Guarantees: `inject` of an injected pod is the same pod.
"""

import copy
import dataclasses
import hashlib
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litefs_operator import names
from litefs_operator.builders import sidecar
from litefs_operator.builders.sidecar_config import NodePlace, litefs_yml
from litefs_operator.crd import ClusterSpec, LeaseType
from litefs_operator.errors import RefusedError
from litefs_operator.pod_request import PodRequest, read_request
from litefs_operator.refusals import check_pod, named_containers, warnings_of

Manifest = dict[str, Any]

_FIRST_CONTAINERS = frozenset({"istio-init", "istio-validation", "istio-proxy", "linkerd-init", "linkerd-proxy"})
"""A mesh carries the sidecar's traffic, so it starts before."""

_SERVICE_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
_CHANGED_BY_PLUGINS = frozenset({"resources", "imagePullPolicy"})
_PERSISTENT_KINDS = ("persistentVolumeClaim", "ephemeral")
_NOT_OF_PODS = ("service", "disruption_budget")
"""Fields of a spec that pods have no part of: the operator follows them by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The LiteFSCluster that a pod names.

    Attributes:
        name: of it.
        namespace: of it and the pod.
        spec: of it.
        namespace_labels: those of the namespace.
    """

    name: str
    namespace: str
    spec: ClusterSpec
    namespace_labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What the operator was installed with.

    Attributes:
        image: of the sidecar, where the LiteFSCluster names none.
        consul_url: of the Consul where it names none; "" if there is none.
    """

    image: str
    consul_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """The outcome.

    Attributes:
        pod: with the sidecar; shares nothing with the pod that came.
        warnings: sentences for whoever created the pod.
    """

    pod: Manifest
    warnings: tuple[str, ...]


def inject(pod: Mapping[str, Any], cluster: Cluster, installation: Installation) -> Injected:
    """Adds the sidecar to a pod that asks for it.

    Args:
        pod: as the API server sent it; is not changed.
        cluster: the one that the pod names.
        installation: the defaults.

    Raises:
        RefusedError: the pod cannot have a sidecar as it is; says what to change.
    """
    request = read_request(pod, cluster.spec)
    check_pod(pod, request, cluster.spec, cluster.namespace_labels)
    patched: Manifest = copy.deepcopy(dict(pod))
    pod_spec = patched["spec"]
    warnings = [*warnings_of(pod)]

    data_volume = _choose_data_volume(pod_spec, request, cluster.spec, warnings)
    _add_volumes(pod_spec, cluster.spec)
    container = sidecar.container(
        cluster.spec,
        cluster=cluster.name,
        image=request.image or cluster.spec.sidecar.image or installation.image,
        data_volume=data_volume,
        resources=sidecar.resources_of(cluster.spec.sidecar.resources, request.resources),
    )
    _add_sidecar(pod_spec, container)
    _add_mounts(pod_spec, request)
    if cluster.spec.metrics.scrape:
        _announce_metrics(patched, cluster.spec, warnings)
    written = {
        names.STATUS: names.STATUS_INJECTED,
        names.CONFIG: litefs_yml(cluster.spec, _place(patched, cluster, installation, request)),
        names.REVISION: revision_of(cluster.spec, installation),
    }
    _mark(patched, cluster, written)
    return Injected(pod=patched, warnings=tuple(warnings))


def revision_of(spec: ClusterSpec, installation: Installation) -> str:
    """Returns a word that is another one when a pod would be made otherwise, its own annotations apart."""
    fields = {name: value for name, value in dataclasses.asdict(spec).items() if name not in _NOT_OF_PODS}
    text = json.dumps([fields, dataclasses.asdict(installation)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _place(pod: Manifest, cluster: Cluster, installation: Installation, request: PodRequest) -> NodePlace:
    lease = cluster.spec.lease
    consul_url = lease.consul.url or installation.consul_url
    if lease.type is LeaseType.CONSUL and not consul_url:
        raise RefusedError(
            "NoConsul",
            f"the LiteFSCluster {cluster.name} names no Consul, and the operator was installed without one: "
            "set spec.lease.consul.url",
        )
    return NodePlace(
        namespace=cluster.namespace,
        cluster=cluster.name,
        candidate=request.candidate,
        resolvable=pod["spec"].get("subdomain") == names.nodes_service(cluster.name),
        mount_name=posixpath.basename(request.mount_path),
        consul_url=consul_url if lease.type is LeaseType.CONSUL else "",
        debug=request.debug,
    )


def _choose_data_volume(pod_spec: Manifest, request: PodRequest, spec: ClusterSpec, warnings: list[str]) -> str:
    """Returns the name of the volume for the data directory; adds one where the cluster allows it to be ephemeral."""
    name = request.data_volume or names.DATA_VOLUME_DEFAULT
    volume = _named(pod_spec.get("volumes"), name)
    if volume is None and request.data_volume is not None:
        raise RefusedError(
            "DataVolumeNotFound", f'the annotation {names.DATA_VOLUME} names the volume "{name}", which the pod has not'
        )
    for container in named_containers(pod_spec):
        if _named(container.get("volumeMounts"), name) is not None:
            raise RefusedError(
                "DataVolumeShared",
                f'container "{container["name"]}" mounts the data volume "{name}", which is LiteFS\'s own: '
                "open the databases in the mount, and remove this volumeMount",
            )
    if volume is not None and any(kind in volume for kind in _PERSISTENT_KINDS):
        return name
    if volume is not None and "emptyDir" not in volume:
        raise RefusedError(
            "DataVolumeKind", f'the data volume "{name}" must be a persistentVolumeClaim, ephemeral, or an emptyDir'
        )
    if not spec.data.allow_ephemeral:
        raise RefusedError(
            "DataNotPersistent",
            f'the databases would be gone with the pod: give it a volume "{names.DATA_VOLUME_DEFAULT}" from a claim '
            f"(or name one by {names.DATA_VOLUME}), or set spec.data.allowEphemeral of the LiteFSCluster",
        )
    warnings.append("the data volume is an emptyDir: when all pods are gone at once, all data are")
    if volume is None:
        pod_spec.setdefault("volumes", []).append({"name": name, "emptyDir": {}})
    return name


def _add_volumes(pod_spec: Manifest, spec: ClusterSpec) -> None:
    volumes = pod_spec.setdefault("volumes", [])
    for volume in (sidecar.mount_volume(), sidecar.config_volume(), sidecar.consul_ca_volume(spec)):
        if volume is None:
            continue
        present = _named(volumes, volume["name"])
        if present is None:
            volumes.append(volume)
        elif present != volume:
            raise RefusedError("VolumeNameTaken", f'rename the volume "{volume["name"]}": the name is LiteFS\'s own')


def _add_sidecar(pod_spec: Manifest, container: Manifest) -> None:
    init_containers = pod_spec.get("initContainers") or []
    present = _named(init_containers, names.CONTAINER)
    if present is None:
        first = [index for index, entry in enumerate(init_containers) if entry["name"] in _FIRST_CONTAINERS]
        init_containers.insert(first[-1] + 1 if first else 0, container)
        pod_spec["initContainers"] = init_containers
    elif not _is_ours(present, container):
        raise RefusedError(
            "ContainerNameTaken",
            f'an init container of the pod is called "{names.CONTAINER}" and is not the sidecar that LiteFS injects: '
            "rename it, or remove it if it was copied from an injected pod. While the operator is upgraded, its old "
            "and its new version may differ: then try again",
        )


def _is_ours(present: Manifest, ours: Manifest) -> bool:
    """Compares the sidecar with what we would inject, less what the API server's plug-ins add to each."""
    cleaned = {key: value for key, value in present.items() if key not in _CHANGED_BY_PLUGINS}
    cleaned["volumeMounts"] = [
        mount
        for mount in present.get("volumeMounts") or []
        if not (mount.get("mountPath") == _SERVICE_ACCOUNT_DIR and mount.get("readOnly"))
    ]
    expected = {key: value for key, value in ours.items() if key not in _CHANGED_BY_PLUGINS}
    resources = present.get("resources") or {}
    return cleaned == expected and all(
        values.items() <= (resources.get(kind) or {}).items() for kind, values in ours["resources"].items()
    )


def _add_mounts(pod_spec: Manifest, request: PodRequest) -> None:
    wanted = sidecar.application_mount(request.mount_path)
    started = False
    for container in pod_spec["initContainers"]:
        if started and container["name"] not in _FIRST_CONTAINERS:
            _add_mount(container, wanted, request)
        started = started or container["name"] == names.CONTAINER
    for container in pod_spec["containers"]:
        if container["name"] not in _FIRST_CONTAINERS:
            _add_mount(container, wanted, request)


def _add_mount(container: Manifest, wanted: Manifest, request: PodRequest) -> None:
    present = _named(container.get("volumeMounts"), names.MOUNT_VOLUME)
    if present is not None:
        if present != wanted:
            raise RefusedError(
                "VolumeNameTaken",
                f'container "{container["name"]}" mounts "{names.MOUNT_VOLUME}" by itself: remove this volumeMount',
            )
    elif request.containers is None or container["name"] in request.containers:
        container["volumeMounts"] = [*(container.get("volumeMounts") or []), wanted]


def _announce_metrics(pod: Manifest, spec: ClusterSpec, warnings: list[str]) -> None:
    """Leads a Prometheus to the sidecar. It takes one port and path of a pod, so those of the application stay."""
    annotations = pod["metadata"].setdefault("annotations", {})
    wanted = {names.SCRAPE: "true", names.SCRAPE_PORT: str(spec.http.port), names.SCRAPE_PATH: "/metrics"}
    present = {key: annotations[key] for key in wanted if key in annotations}
    if not present:
        annotations.update(wanted)
    elif present != wanted:
        warnings.append("the pod has prometheus.io annotations of its own: they do not lead to the sidecar's metrics")


def _mark(pod: Manifest, cluster: Cluster, written: Mapping[str, str]) -> None:
    """Writes the annotations, and the label by which the operator and the Services find the pod."""
    annotations = pod["metadata"].setdefault("annotations", {})
    for key, value in written.items():
        if annotations.setdefault(key, value) != value:
            raise RefusedError(
                "AnnotationTaken",
                f"remove the annotation {key}: it is written by LiteFS, for this pod alone. While the operator is "
                "upgraded, its old and its new version may differ: then try again",
            )
    labels = pod["metadata"].setdefault("labels", {})
    if labels.setdefault(names.CLUSTER, cluster.name) != cluster.name:
        raise RefusedError(
            "LabelTaken", f"the label {names.CLUSTER} is {labels[names.CLUSTER]}, the annotation {cluster.name}"
        )


def _named(entries: list[Manifest] | None, name: str) -> Manifest | None:
    return next((entry for entry in entries or [] if entry.get("name") == name), None)

"""What of a pod cannot go together with a sidecar. Each refusal says what to change.

Strategy: one function per thing that can be wrong, each over the pod as it came. What bears one of our names is looked
at by `injection.py`, which knows what it would inject.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from litefs_operator import names
from litefs_operator.crd import ClusterSpec, LeaseType
from litefs_operator.errors import RefusedError
from litefs_operator.pod_request import PodRequest

Pod = Mapping[str, Any]

_ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
_OS_LABEL = "kubernetes.io/os"


def check_pod(pod: Pod, request: PodRequest, spec: ClusterSpec, namespace_labels: Mapping[str, str]) -> None:
    """Refuses a pod that would start and not work, or that the API server would refuse in words nobody understands.

    Raises:
        RefusedError: says what to change.
    """
    _check_namespace(namespace_labels)
    _check_machine(pod["spec"])
    _check_containers(pod["spec"], request)
    _check_ports(pod["spec"], spec.http.port)
    _check_mounts(pod["spec"], request)
    _check_lease(pod, request, spec)


def warnings_of(pod: Pod) -> Iterator[str]:
    """Yields what is allowed, and may surprise."""
    if pod["spec"].get("shareProcessNamespace"):
        yield "shareProcessNamespace: the application can see and signal the processes of the LiteFS sidecar"
    if pod["spec"].get("runtimeClassName"):
        yield "runtimeClassName: sandboxed runtimes (gVisor, Kata) pass no FUSE mount on; the pod may not start"


def named_containers(pod_spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the init containers and containers of a pod, without the sidecar."""
    for kind in ("initContainers", "containers"):
        for container in pod_spec.get(kind) or []:
            if container["name"] != names.CONTAINER:
                yield container


def _check_namespace(labels: Mapping[str, str]) -> None:
    level = labels.get(_ENFORCE_LABEL, "privileged")
    if level != "privileged":
        raise RefusedError(
            "PodSecurity",
            f'the namespace enforces Pod Security "{level}", and the LiteFS sidecar must be privileged to pass its '
            f"mount on: label the namespace {_ENFORCE_LABEL}=privileged, or use another one",
        )


def _check_machine(spec: Mapping[str, Any]) -> None:
    system = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get(_OS_LABEL) or "linux"
    if system != "linux":
        raise RefusedError("NotLinux", f"the pod asks for {system} nodes, and LiteFS needs FUSE of Linux")
    if spec.get("hostUsers") is False:
        raise RefusedError(
            "UserNamespace", "hostUsers: false: mounts do not leave a user namespace; remove it from the pod"
        )
    if spec.get("hostNetwork"):
        raise RefusedError(
            "HostNetwork", "hostNetwork: two pods on a machine would use the same port; remove it from the pod"
        )


def _check_containers(spec: Mapping[str, Any], request: PodRequest) -> None:
    if any(container["name"] == names.CONTAINER for container in spec.get("containers") or []):
        raise RefusedError(
            "ContainerNameTaken",
            f'a container of the pod is called "{names.CONTAINER}", which is the name of the sidecar: rename it',
        )
    present = {str(container["name"]) for container in named_containers(spec)}
    unknown = sorted((request.containers or frozenset()) - present)
    if unknown:
        raise RefusedError(
            "ContainerNotFound",
            f"the annotation {names.CONTAINERS} names {', '.join(unknown)}; the pod has {', '.join(sorted(present))}",
        )


def _check_ports(spec: Mapping[str, Any], port: int) -> None:
    for container in named_containers(spec):
        if any(entry.get("containerPort") == port for entry in container.get("ports") or []):
            raise RefusedError(
                "PortTaken",
                f'container "{container["name"]}" uses port {port}, as the sidecar does: '
                "change it, or spec.http.port of the LiteFSCluster",
            )


def _check_mounts(spec: Mapping[str, Any], request: PodRequest) -> None:
    parent = posixpath.dirname(request.mount_path)
    for container in named_containers(spec):
        for mount in container.get("volumeMounts") or []:
            path = posixpath.normpath(str(mount["mountPath"]))
            if mount["name"] != names.MOUNT_VOLUME and (path == parent or path.startswith(f"{parent}/")):
                raise RefusedError(
                    "MountPathTaken",
                    f'container "{container["name"]}" mounts the volume "{mount["name"]}" at {path}, and LiteFS is to '
                    f"be mounted at {parent}: move one of them ({names.MOUNT_PATH} moves ours)",
                )


def _check_lease(pod: Pod, request: PodRequest, spec: ClusterSpec) -> None:
    """A primary by configuration is found by its DNS name, which exists only in the StatefulSet's own Service."""
    if spec.lease.type is not LeaseType.STATIC or not request.candidate:
        return
    service = names.nodes_service(pod["metadata"]["annotations"][names.CLUSTER])
    if pod["spec"].get("subdomain") != service:
        raise RefusedError(
            "PrimaryWithoutName",
            f"spec.lease.static names this pod as the primary, and the others find it only if serviceName of its "
            f"StatefulSet is {service}",
        )

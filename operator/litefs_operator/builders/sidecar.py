"""What a pod gets: the sidecar's container, its volumes, and the mount of the application's containers.

Strategy: every default that the API server would add is written out. So what comes back at a second call is what was
injected, and comparing needs no knowledge of defaults.
"""

import posixpath
from typing import Any

from litefs_operator import names
from litefs_operator.crd import ClusterSpec, Resources

Manifest = dict[str, Any]

START_S_MAX = 1800
"""Recovering and catching up read every database; past this the container is started anew, and goes on from there."""


def mount_volume() -> Manifest:
    """The volume through which the application sees the sidecar's mount."""
    return {"name": names.MOUNT_VOLUME, "emptyDir": {}}


def config_volume() -> Manifest:
    """The pod's own annotation as the file litefs.yml: the webhook creates no objects."""
    field = {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{names.CONFIG}']"}
    return {
        "name": names.CONFIG_VOLUME,
        "downwardAPI": {"items": [{"path": names.CONFIG_FILE, "fieldRef": field}], "defaultMode": 0o444},
    }


def consul_ca_volume(spec: ClusterSpec) -> Manifest | None:
    """The CA of Consul, if the spec names one."""
    ca = spec.lease.consul.ca_secret_ref
    if ca is None:
        return None
    secret = {"secretName": ca.name, "items": [{"key": ca.key, "path": "ca.crt"}], "defaultMode": 0o444}
    return {"name": names.CONSUL_CA_VOLUME, "secret": secret}


def application_mount(mount_path: str) -> Manifest:
    """The mount of an application's container.

    Read-only concerns the directory around the file system, not the file system: while that is not mounted, a database
    cannot be created in its place by mistake.
    """
    return {
        "name": names.MOUNT_VOLUME,
        "mountPath": posixpath.dirname(mount_path),
        "readOnly": True,
        "mountPropagation": "HostToContainer",
    }


def container(spec: ClusterSpec, *, cluster: str, image: str, data_volume: str, resources: Manifest) -> Manifest:
    """The sidecar: an init container that goes on running, started before and ended after the application."""
    port = spec.http.port
    mounts = [
        {"name": names.MOUNT_VOLUME, "mountPath": names.MOUNT_PARENT, "mountPropagation": "Bidirectional"},
        {"name": data_volume, "mountPath": names.DATA_DIR},
        {"name": names.CONFIG_VOLUME, "readOnly": True, "mountPath": names.CONFIG_DIR},
    ]
    if spec.lease.consul.ca_secret_ref is not None:
        mounts.append({"name": names.CONSUL_CA_VOLUME, "readOnly": True, "mountPath": names.CONSUL_CA_DIR})
    return {
        "name": names.CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": ["litefs"],
        "args": ["mount", "-config", f"{names.CONFIG_DIR}/{names.CONFIG_FILE}"],
        "ports": [{"name": "litefs", "containerPort": port, "protocol": "TCP"}],
        "env": _environment(spec, cluster),
        "resources": resources,
        "volumeMounts": mounts,
        # Mount propagation towards the machine needs privileged; the application's runAsUser must not count here.
        "securityContext": {
            "privileged": True,
            "runAsUser": 0,
            "runAsNonRoot": False,
            "readOnlyRootFilesystem": True,
        },
        # Sent when the pod is told to end, while the application still runs: on SIGTERM, which comes after it, the gap
        # without a primary would be as long as the application takes to end.
        "lifecycle": {"preStop": {"exec": {"command": _handoff(port)}}},
        "startupProbe": _probe(port, failures=START_S_MAX),
        "readinessProbe": _probe(port, failures=3),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }


def resources_of(defaults: Resources, overrides: dict[tuple[str, str], str]) -> Manifest:
    """Returns the sidecar's resources; an override of "0" takes a default away."""
    values = {
        ("requests", "cpu"): defaults.cpu_request,
        ("requests", "memory"): defaults.memory_request,
        ("limits", "cpu"): defaults.cpu_limit,
        ("limits", "memory"): defaults.memory_limit,
        **overrides,
    }
    resources: Manifest = {}
    for (kind, name), quantity in values.items():
        if quantity not in (None, "0"):
            resources.setdefault(kind, {})[name] = quantity
    return resources


def _environment(spec: ClusterSpec, cluster: str) -> list[Manifest]:
    variables: list[Manifest] = [
        _field_variable("POD_NAME", "metadata.name"),
        _field_variable("POD_IP", "status.podIP"),
        _secret_variable("LITEFS_TOKEN", names.token_secret(cluster), names.TOKEN_KEY),
    ]
    consul = spec.lease.consul
    if consul.token_secret_ref is not None:
        reference = consul.token_secret_ref
        variables.append(_secret_variable("CONSUL_HTTP_TOKEN", reference.name, reference.key))
    if consul.ca_secret_ref is not None:
        variables.append({"name": "CONSUL_CACERT", "value": f"{names.CONSUL_CA_DIR}/ca.crt"})
    return variables


def _field_variable(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _secret_variable(name: str, secret: str, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _handoff(port: int) -> list[str]:
    """The port rather than the configuration, which takes longer to read than the rest of the handoff."""
    return ["litefs", "handoff", "-url", f"http://localhost:{port}", "-timeout", "5s", "-leave"]


def _probe(port: int, *, failures: int) -> Manifest:
    return {
        "httpGet": {"path": "/readyz", "port": port, "scheme": "HTTP"},
        "periodSeconds": 1,
        "timeoutSeconds": 2,
        "successThreshold": 1,
        "failureThreshold": failures,
    }

"""Objects of the tests that write pods by hand, in the shape that injection gives them.

The file system is mounted in a sub-directory of a volume: so the sidecar may be restarted, and the mount comes back
in containers that run. The application sees the volume read-only: in the gap its writes fail, and nothing is created
where the mount is missing.
"""

from typing import Any

CONFIGURATION = """\
fuse:
  dir: /litefs-mount/data
  allow-other: true
data:
  dir: /var/lib/litefs
http:
  addr: ":20202"
lease:
"""
DATABASE = "/litefs/data/app.db"

_PORT = 20202
_SHELL_LOOP = "trap 'exit 0' TERM; while :; do sleep 0.2; done"


def configuration(name: str, lease: str) -> dict[str, Any]:
    """Returns a ConfigMap with a litefs.yml; `lease` are its lines below `lease:`."""
    lines = "".join(f"  {line}\n" for line in lease.strip().splitlines())
    data = {"litefs.yml": CONFIGURATION + lines}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def service(name: str) -> dict[str, Any]:
    """Returns a Service by which the pod of the same name is reached before it is ready, as replicas must."""
    spec = {"selector": {"node": name}, "ports": [{"port": _PORT}], "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def pod(name: str, *, sidecar_image: str, application_image: str, configuration_name: str) -> dict[str, Any]:
    """Returns a pod with an unprivileged application beside LiteFS as a native sidecar."""
    sidecar = {
        "name": "litefs",
        "image": sidecar_image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "args": ["mount", "-config", "/etc/litefs/litefs.yml"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "securityContext": {"privileged": True, "runAsUser": 0, "runAsNonRoot": False, "readOnlyRootFilesystem": True},
        # It must not look at the mount, which may hang: the kernel's table says whether it is there.
        "startupProbe": {
            "exec": {"command": ["grep", "-q", " /litefs-mount/data .*- fuse", "/proc/self/mountinfo"]},
            "periodSeconds": 1,
            "failureThreshold": 120,
        },
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": _PORT}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "litefs-mount", "mountPath": "/litefs-mount", "mountPropagation": "Bidirectional"},
            {"name": "litefs-data", "mountPath": "/var/lib/litefs"},
            {"name": "litefs-configuration", "mountPath": "/etc/litefs"},
        ],
    }
    application = {
        "name": "application",
        "image": application_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", _SHELL_LOOP],
        "securityContext": {
            "runAsUser": 1000,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {
                "name": "litefs-mount",
                "mountPath": "/litefs",
                "mountPropagation": "HostToContainer",
                "readOnly": True,
            }
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"node": name}},
        "spec": {
            "terminationGracePeriodSeconds": 20,
            "securityContext": {"fsGroup": 1000},
            "initContainers": [sidecar],
            "containers": [application],
            "volumes": [
                {"name": "litefs-mount", "emptyDir": {}},
                {"name": "litefs-data", "emptyDir": {}},
                {"name": "litefs-configuration", "configMap": {"name": configuration_name}},
            ],
        },
    }


def consul(name: str, image: str) -> list[dict[str, Any]]:
    """Returns a Consul of one server that forgets everything when it ends, and a Service of the same name."""
    container = {
        "name": "consul",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["agent", "-dev", "-client", "0.0.0.0"],
        "readinessProbe": {"httpGet": {"path": "/v1/operator/raft/configuration", "port": 8500}, "periodSeconds": 1},
    }
    metadata = {"name": name, "labels": {"app": name}}
    pod_spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    service_spec = {"selector": metadata["labels"], "ports": [{"port": 8500}]}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service_spec},
    ]

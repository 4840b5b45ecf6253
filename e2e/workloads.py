"""Objects as users write them: a LiteFSCluster, and annotated pods that run `application.py`.

The applications are unprivileged and know nothing of LiteFS; everything else the operator adds.
"""

from pathlib import Path
from typing import Any

Manifest = dict[str, Any]

CLUSTER = "blog"
PORT = 8080
DATABASE = "/litefs/data/app.db"
SCRIPT = "/script/application.py"

_CONFIG_MAP = "application"
_SECURITY = {
    "runAsUser": 1000,
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def cluster(name: str = CLUSTER, **spec: Any) -> Manifest:
    """Returns a LiteFSCluster; its Services -rw, -ro and -r carry the application's port."""
    ports = [{"name": "http", "port": PORT, "targetPort": PORT}]
    return {
        "apiVersion": "litefs.io/v1alpha1",
        "kind": "LiteFSCluster",
        "metadata": {"name": name},
        "spec": {"service": {"ports": ports}, **spec},
    }


def script() -> Manifest:
    """Returns the ConfigMap with the program that the pods run."""
    data = {"application.py": (Path(__file__).parent / "application.py").read_text()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _CONFIG_MAP}, "data": data}


def stateful_set(image: str, *, name: str = CLUSTER, replicas: int = 3, run_down_s: float = 0.0) -> Manifest:
    """Returns a web application with a claim for each pod.

    Args:
        run_down_s: how long it serves on after SIGTERM.
    """
    claim = {
        "metadata": {"name": "litefs-data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "serviceName": f"{name}-nodes",
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": annotations(name)},
                "spec": _pod_spec(image, ["serve", DATABASE, str(PORT)], run_down_s=run_down_s),
            },
            "volumeClaimTemplates": [claim],
        },
    }


def pod(name: str, image: str, *words: str, asks: dict[str, str] | None = None) -> Manifest:
    """Returns a pod that runs one command of the program.

    Args:
        words: the command; by default it sleeps.
        asks: its annotations; None for a pod without a database.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "annotations": asks or {}},
        "spec": {**_pod_spec(image, list(words)), "restartPolicy": "Never"},
    }


def annotations(name: str = CLUSTER, **more: str) -> dict[str, str]:
    """Returns what a person writes on a pod; keywords are annotations of LiteFS, with _ for -."""
    asked = {f"litefs.io/{key.replace('_', '-')}": value for key, value in more.items()}
    return {"litefs.io/inject": "true", "litefs.io/cluster": name, **asked}


def _pod_spec(image: str, words: list[str], *, run_down_s: float = 0.0) -> Manifest:
    command = ["python3", SCRIPT, *words] if words else ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    container: Manifest = {
        "name": "application",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [{"name": "RUN_DOWN_S", "value": str(run_down_s)}],
        "securityContext": _SECURITY,
        "volumeMounts": [{"name": "script", "mountPath": "/script"}],
    }
    if words[:1] == ["serve"]:
        container["readinessProbe"] = {"httpGet": {"path": "/count", "port": PORT}, "periodSeconds": 1}
    return {
        "terminationGracePeriodSeconds": 20,
        "securityContext": {"fsGroup": 1000},
        "containers": [container],
        "volumes": [{"name": "script", "configMap": {"name": _CONFIG_MAP}}],
    }

"""`helm test`: creates a LiteFSCluster and an annotated pod, and waits until the pod's application has used a database.

Runs in the test's pod, with the standard library alone. Prints what happened; exit code 0 when it worked. What it
created is deleted, whatever happened.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE = (ACCOUNT / "namespace").read_text()
NAME = os.environ["TEST_NAME"]
STATIC = os.environ["TEST_LEASE"] == "static"
DEADLINE = time.monotonic() + 150.0
CLUSTERS, PODS, SECRETS = "apis/litefs.io/v1alpha1", "api/v1", "api/v1"

APPLICATION = """
import sqlite3
with sqlite3.connect("/litefs/data/test.db", isolation_level=None) as database:
    for mode in ("delete", "wal"):
        database.execute(f"pragma journal_mode = {mode}")
        database.execute("create table if not exists t(x)")
        database.execute("insert into t values (?)", (mode,))
    print([x for x, in database.execute("select x from t")])
"""


def request(method: str, group: str, path: str, body: Any = None) -> Any:
    """Asks the API server about objects of the namespace; 404 and 409 raise urllib.error.HTTPError as others do."""
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    url = f"https://kubernetes.default.svc/{group}/namespaces/{NAMESPACE}/{path}"
    asked = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(asked, timeout=30, context=context) as response:
        return json.load(response)


def cluster() -> dict[str, Any]:
    """Returns a LiteFSCluster whose nodes need no claim."""
    # Another key each time: Consul remembers the databases of the run before, and would wait for them to come back.
    consul = {"type": "consul", "consul": {"key": f"litefs/{NAMESPACE}/{NAME}/{time.time_ns()}"}}
    return {
        "apiVersion": "litefs.io/v1alpha1",
        "kind": "LiteFSCluster",
        "metadata": {"name": NAME},
        "spec": {
            "lease": {"type": "static", "static": {"primary": NAME}} if STATIC else consul,
            "data": {"allowEphemeral": True},
        },
    }


def pod() -> dict[str, Any]:
    """Returns a pod that uses a database, and ends."""
    application = {
        "name": "application",
        "image": os.environ["TEST_IMAGE"],
        "imagePullPolicy": os.environ["TEST_PULL_POLICY"],
        "command": ["python3", "-c", APPLICATION],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "readOnlyRootFilesystem": True},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "annotations": {"litefs.io/inject": "true", "litefs.io/cluster": NAME}},
        "spec": {
            "restartPolicy": "Never",
            "subdomain": f"{NAME}-nodes",
            "securityContext": {"fsGroup": 1000},
            "containers": [application],
        },
    }


def delete_all() -> None:
    """Deletes what the test creates, and the token that the operator made for it."""
    secret = f"secrets/{NAME}-litefs-token"
    for group, path in ((PODS, f"pods/{NAME}"), (CLUSTERS, f"litefsclusters/{NAME}"), (SECRETS, secret)):
        try:
            request("DELETE", group, path)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                print(f"{path} was not deleted: {error}")


def wait_gone() -> None:
    """Returns when the pod of an earlier run is gone."""
    while time.monotonic() < DEADLINE:
        try:
            request("GET", PODS, f"pods/{NAME}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return
            raise
        time.sleep(0.5)


@contextmanager
def created() -> Iterator[None]:
    """Creates the LiteFSCluster and the pod, and deletes them in the end."""
    delete_all()
    wait_gone()
    try:
        request("POST", CLUSTERS, "litefsclusters", cluster())
        request("POST", PODS, "pods", pod())
        yield
    finally:
        delete_all()


def succeeds() -> bool:
    """Returns whether the pod has ended well; it has not when time is up."""
    phase, status = "", {}
    while time.monotonic() < DEADLINE and phase not in {"Succeeded", "Failed"}:
        time.sleep(0.5)
        status = request("GET", PODS, f"pods/{NAME}")["status"]
        if status["phase"] != phase:
            phase = status["phase"]
            print(f"pod {NAME}: {phase}", flush=True)
    if phase != "Succeeded":
        states = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        print(json.dumps({state["name"]: state["state"] for state in states}, indent=2))
    return phase == "Succeeded"


def main() -> int:
    """Returns the exit code."""
    try:
        with created():
            return 0 if succeeds() else 1
    except urllib.error.HTTPError as refused:
        print(f"{refused}: {refused.read().decode(errors='replace')}")
        return 1


if __name__ == "__main__":
    sys.exit(main())

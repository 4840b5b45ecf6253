"""`python -m bench.operator`: what the operator costs, and how soon it acts.

python -m bench.operator                        200 clusters of 3 pods among 2,000 foreign pods
python -m bench.operator --clusters 20 --foreign 100 --idle 10    a quick look

A real API server and a real Consul; the pods are faked (see `operator_world`), so no kubelet and no kube-proxy takes
part. It needs the programs that `make e2e` builds, and about 1 GB of memory.
"""

import argparse
import base64
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.operator_world import (
    CLUSTERS_NAMESPACE,
    World,
    condition,
    fetch,
    node_id,
    pod_manifest,
    running_world,
    wait_for,
)
from bench.report import machine
from e2e.api_server import free_port, running_process
from litefs_operator.certificate import make_bundle
from litefs_operator.errors import KubeError, KubeUnavailableError
from litefs_operator.kube import KubeApi, Manifest, object_path

HOST = "localhost"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The operator under measurement."""

    pid: int
    webhook_port: int
    authorities: bytes

    def cpu_s(self) -> float:
        """Processor time used so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def resident_mib(self) -> float:
        """Resident memory now, in MiB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES / 2**20


def main() -> int:
    """Measures everything once, and prints a line per figure."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--foreign", type=int, default=2000, help="pods that are none of ours")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds over which the idle operator is measured")
    parser.add_argument("--flips", type=int, default=20, help="changes of a primary")
    parser.add_argument("--pods", type=int, default=200, help="pods created one after the other")
    arguments = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.2f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="litefs-bench-") as root, running_world(Path(root)) as world:
        world.add_foreign_pods(arguments.foreign)
        world.add_clusters(arguments.clusters)
        with running_operator(world) as operator:
            begun = operator.cpu_s()
            seconds = wait_for("every cluster is Ready", lambda: is_every_ready(world.kube, arguments.clusters), 300)
            show("start until every cluster is Ready", f"{seconds:.1f} s, {operator.cpu_s() - begun:.1f} s of a core")
            measure_idle(operator, arguments.idle)
            measure_flips(world, arguments.flips, arguments.clusters)
            measure_webhook(world, operator, arguments.pods)
            show("resident at the end", f"{operator.resident_mib():.0f} MiB")
    print(f"load {os.getloadavg()[0]:.2f}")
    return 0


def show(name: str, value: str) -> None:
    """Prints one figure."""
    print(f"{name:<44} {value}", flush=True)


@contextlib.contextmanager
def running_operator(world: World) -> Iterator[Running]:
    """Runs `litefs-operator run` until the context ends."""
    directory = world.root / "tls"
    directory.mkdir()
    bundle = make_bundle(HOST, datetime.now(UTC))
    (directory / "tls.crt").write_bytes(bundle.certificate)
    (directory / "tls.key").write_bytes(bundle.key)
    webhook_port, health_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "litefs_operator", "run", "--sidecar-image", "litefs:bench"),
        *("--consul-url", world.consul_url, "--tls-dir", str(directory)),
        *("--webhook-port", str(webhook_port), "--health-port", str(health_port)),
    ]
    environment = {
        "KUBECONFIG": str(world.kubeconfig),
        "POD_NAME": "bench",
        "POD_NAMESPACE": "litefs",
        "PYTHONPATH": "operator",
    }
    log = world.root / "operator.log"
    with running_process(command, log, environment) as process:
        try:
            seconds = wait_for("the operator", lambda: fetch(f"http://127.0.0.1:{health_port}/readyz") == b"ok\n")
        except TimeoutError:
            sys.stderr.write(log.read_text())
            raise
        show("start until ready", f"{seconds:.1f} s")
        yield Running(pid=process.pid, webhook_port=webhook_port, authorities=bundle.authorities)


def is_every_ready(kube: KubeApi, cluster_n: int) -> bool:
    """Returns whether every LiteFSCluster says so."""
    found = [
        item
        for _, items in kube.pages(object_path("litefs.io/v1alpha1", "litefsclusters", CLUSTERS_NAMESPACE))
        for item in items
    ]
    time.sleep(0.5)  # the list itself costs the API server more than the operator does
    return len(found) == cluster_n and all(condition(item, "Ready") == "True" for item in found)


def measure_idle(operator: Running, seconds: float) -> None:
    """Measures memory, and the processor time of an operator that has nothing to do."""
    time.sleep(min(seconds, 25.0))  # the nodes are asked in ever longer pauses at first
    begun, used = time.monotonic(), operator.cpu_s()
    time.sleep(seconds)
    share = (operator.cpu_s() - used) / (time.monotonic() - begun)
    show("idle", f"{share * 100:.1f} % of a core, {operator.resident_mib():.0f} MiB resident")


def measure_flips(world: World, flip_n: int, cluster_n: int) -> None:
    """Measures how soon -rw follows the lease: from Consul's answer to the watch of the Service."""
    seen: dict[str, float] = {}
    path = object_path("v1", "services", CLUSTERS_NAMESPACE)
    version = world.kube.get(path, limit=1)["metadata"]["resourceVersion"]

    def watch() -> None:
        with contextlib.suppress(KubeUnavailableError):  # the API server ends before the thread does
            for event in world.kube.watch(path, version):
                service = event["object"]
                if event["type"] == "MODIFIED" and service["metadata"]["name"].endswith("-rw"):
                    seen[service["spec"]["selector"]["litefs.io/node"]] = time.monotonic()

    threading.Thread(target=watch, daemon=True).start()
    time.sleep(1.0)
    delays = []
    for flip in range(flip_n):
        cluster = flip % cluster_n
        node = node_id(cluster, 1)
        begun = world.elect(cluster, 1)
        wait_for("-rw", partial(seen.__contains__, node), 10)
        delays.append(seen[node] - begun)
        time.sleep(0.5)
    show("lease changed → -rw changed", summary(delays))


def measure_webhook(world: World, operator: Running, pod_n: int) -> None:
    """Measures how long the API server takes to create a pod, with both calls of the webhook and without it."""
    kube = world.kube
    hooks = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "litefs"},
        "webhooks": [webhook(operator)],
    }
    kube.create(object_path("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations"), hooks)
    wait_for("the webhook", lambda: "initContainers" in create(kube, "probe", dry_run=True)["spec"])
    for name, annotated in (("pod without the annotation, one by one", False), ("pod injected, one by one", True)):
        delays = []
        for index in range(pod_n):
            begun = time.monotonic()
            create(kube, f"one-{index}", dry_run=True, annotated=annotated)
            delays.append(time.monotonic() - begun)
        show(name, summary(delays))
    for round_n in range(3):
        with ThreadPoolExecutor(50) as pool:
            outcomes = list(pool.map(partial(burst_one, kube), [f"burst-{round_n}-{index}" for index in range(50)]))
        delays = [delay for delay, _ in outcomes]
        show("50 pods injected at once", f"{summary(delays)}, refused {sum(refused for _, refused in outcomes)}")


def burst_one(kube: KubeApi, name: str) -> tuple[float, bool]:
    """Creates a pod. Returns the seconds, and whether it was refused."""
    begun = time.monotonic()
    try:
        refused = "initContainers" not in create(kube, name)["spec"]
    except (KubeError, urllib.error.URLError):
        refused = True
    return time.monotonic() - begun, refused


def create(kube: KubeApi, name: str, *, dry_run: bool = False, annotated: bool = True) -> Manifest:
    """Creates a pod, and returns it as the API server made it."""
    asked = {"litefs.io/inject": "true", "litefs.io/cluster": "c0"} if annotated else {}
    pod = pod_manifest({"name": name, "annotations": asked})
    path = object_path("v1", "pods", CLUSTERS_NAMESPACE)
    return kube.create(path + ("?dryRun=All" if dry_run else ""), pod)


def webhook(operator: Running) -> Manifest:
    """Returns the webhook as the chart has it, but for the address."""
    return {
        "name": "inject.litefs.io",
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "NoneOnDryRun",
        "timeoutSeconds": 5,
        "admissionReviewVersions": ["v1"],
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
                "scope": "Namespaced",
            }
        ],
        "matchConditions": [
            {
                "name": "annotated",
                "expression": "has(object.metadata.annotations) && 'litefs.io/inject' in object.metadata.annotations",
            }
        ],
        "clientConfig": {
            "url": f"https://{HOST}:{operator.webhook_port}/inject",
            "caBundle": base64.b64encode(operator.authorities).decode(),
        },
    }


def summary(delays: list[float]) -> str:
    """Returns median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(delay * 1000 for delay in delays)
    p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return f"p50 {statistics.median(ordered):.0f} ms, p99 {p99:.0f} ms, max {ordered[-1]:.0f} ms (n={len(ordered)})"


if __name__ == "__main__":
    sys.exit(main())

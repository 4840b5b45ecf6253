"""What the operator's benchmark measures it against: a real API server and Consul on loopback, and faked pods.

Strategy: etcd, kube-apiserver and Consul run as they are, without controllers and kubelet: a pod is an object that says
it runs. Its address is one of 127.0.0.0/8 of its own, so one server plays the sidecars of all, and knows by the address
that it was asked at which one it is.
"""

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from e2e.api_server import free_port, running_api_server, running_process
from e2e.tools import find_tools
from litefs_operator.crd import custom_resource_definition
from litefs_operator.errors import OperatorError
from litefs_operator.kube import KubeApi, Manifest, object_path

MEMBERS = 3
FOREIGN_BYTES = 10_000
"""Of an annotation of each foreign pod: 10.7 kB is a usual size with all that controllers write (premortem)."""

CLUSTERS_NAMESPACE = "bench"
FOREIGN_NAMESPACE = "foreign"
START_S = 60.0
LOOK_S = 0.2


def wait_for(what: str, holds: Callable[[], bool], timeout_s: float = START_S) -> float:
    """Waits until something holds. Returns the seconds that it took.

    Raises:
        TimeoutError: it does not.
    """
    begun = time.monotonic()
    while time.monotonic() - begun < timeout_s:
        with contextlib.suppress(OSError, urllib.error.URLError, OperatorError):
            if holds():
                return time.monotonic() - begun
        time.sleep(0.05)
    raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")


def fetch(url: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """Sends one request and returns the answer's body."""
    request = urllib.request.Request(url, data=body, method=method)
    with urllib.request.urlopen(request, timeout=10) as response:
        content: bytes = response.read()
        return content


@dataclass(slots=True)
class World:
    """The running parts.

    Attributes:
        root: a directory with keys and logs.
        kubeconfig: of an administrator.
        kube: a client of the API server, with every right.
        consul_url: of the Consul.
        node_port: of the sidecars.
        primaries: which member of each cluster is primary.
    """

    root: Path
    kubeconfig: Path
    kube: KubeApi
    consul_url: str
    node_port: int
    primaries: dict[int, int] = field(default_factory=dict)
    sessions: dict[int, str] = field(default_factory=dict)

    def add_clusters(self, cluster_n: int) -> None:
        """Creates LiteFSClusters with three pods each, and elects the first of them."""
        self._in_parallel(self._add_cluster, cluster_n)

    def add_foreign_pods(self, pod_n: int) -> None:
        """Creates pods that are none of ours."""

        def add(index: int) -> None:
            metadata = {"name": f"foreign-{index}", "annotations": {"example.com/size": "x" * FOREIGN_BYTES}}
            self.kube.create(object_path("v1", "pods", FOREIGN_NAMESPACE), pod_manifest(metadata))

        self._in_parallel(add, pod_n)

    def elect(self, cluster: int, member: int) -> float:
        """Gives a cluster's lease to a member. Returns the moment at which Consul had it, in monotonic seconds."""
        body = json.dumps(
            {"hostname": f"c{cluster}-{member}", "advertise-url": f"http://{address(cluster, member)}:{self.node_port}"}
        ).encode()
        self.primaries[cluster] = member
        key = f"litefs/{CLUSTERS_NAMESPACE}/c{cluster}"
        fetch(f"{self.consul_url}/v1/kv/{key}?acquire={self.sessions[cluster]}", "PUT", body)
        return time.monotonic()

    async def status(self, request: web.Request) -> web.Response:
        """Plays the sidecar whose address was asked, which waits for news as the real one does."""
        assert request.transport is not None
        cluster, member = owner_of(request.transport.get_extra_info("sockname")[0])
        known, end = request.query.get("unlike"), time.monotonic() + float(request.query.get("wait", "0"))
        while True:
            is_primary = self.primaries.get(cluster) == member
            standing = "primary" if is_primary else "replica"
            if standing != known or time.monotonic() >= end:
                break
            await asyncio.sleep(LOOK_S)
        return web.json_response(
            {
                "node_id": f"{node_id(cluster, member)}",
                "role": "primary" if is_primary else "replica",
                "ready": True,
                "lag_ms": None if is_primary else int(time.monotonic() * 1000) % 1000,
                "lease_remaining_s": 8.0 if is_primary else 0.0,
                "standing": standing,
                "databases": [{"name": "app.db", "position": "0000000000000001/8000000000000001"}],
            }
        )

    def _add_cluster(self, index: int) -> None:
        name = f"c{index}"
        cluster = {
            "apiVersion": "litefs.io/v1alpha1",
            "kind": "LiteFSCluster",
            "metadata": {"name": name},
            "spec": {"http": {"port": self.node_port}},
        }
        self.kube.create(object_path("litefs.io/v1alpha1", "litefsclusters", CLUSTERS_NAMESPACE), cluster)
        for member in range(MEMBERS):
            pod = f"{name}-{member}"
            self.kube.create(
                object_path("v1", "pods", CLUSTERS_NAMESPACE),
                pod_manifest({"name": pod, "labels": {"litefs.io/cluster": name}}),
            )
            ip = address(index, member)
            status = {"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}
            self.kube.patch(
                object_path("v1", "pods", CLUSTERS_NAMESPACE, pod, "status"),
                {"status": {"phase": "Running", **status}},
            )
        session = {"Behavior": "delete", "TTL": "3600s", "NodeChecks": [], "LockDelay": "1s"}
        answer = fetch(f"{self.consul_url}/v1/session/create", "PUT", json.dumps(session).encode())
        self.sessions[index] = json.loads(answer)["ID"]
        self.elect(index, 0)

    @staticmethod
    def _in_parallel(function: Callable[[int], None], count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(function, range(count)):
                pass


def pod_manifest(metadata: Manifest) -> Manifest:
    """Returns a pod that no kubelet will see."""
    volume = {"name": "litefs-data", "persistentVolumeClaim": {"claimName": "data"}}
    spec = {"nodeName": "none", "containers": [{"name": "app", "image": "app"}], "volumes": [volume]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def address(cluster: int, member: int) -> str:
    """Returns the address of a pod."""
    return f"127.{100 + cluster // 250}.{cluster % 250}.{10 + member}"


def owner_of(ip: str) -> tuple[int, int]:
    """Returns cluster and member of an address."""
    _, high, low, member = (int(part) for part in ip.split("."))
    return (high - 100) * 250 + low, member - 10


def node_id(cluster: int, member: int) -> str:
    """Returns the node id of a pod's sidecar."""
    return f"{0xA000_0000_0000_0000 + cluster * 16 + member:016X}"


@contextlib.contextmanager
def running_world(root: Path) -> Iterator[World]:
    """Starts everything in an empty directory, and ends it."""
    tools = find_tools()
    consul_ports = {name: free_port() for name in ("http", "server", "serf-lan", "serf-wan")}
    consul = [
        *(str(tools.consul), "agent", "-dev", "-log-level=error", "-grpc-port=-1", "-grpc-tls-port=-1"),
        *("-dns-port=-1", *(f"-{name}-port={port}" for name, port in consul_ports.items())),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running_process(consul, root / "consul.log"))
        server = stack.enter_context(running_api_server(root, tools))
        world = World(
            root=root,
            kubeconfig=server.kubeconfig,
            kube=KubeApi.connect(str(server.kubeconfig)),
            consul_url=f"http://127.0.0.1:{consul_ports['http']}",
            node_port=free_port(),
        )
        wait_for("Consul", lambda: fetch(f"{world.consul_url}/v1/status/leader") not in (b"", b'""'))
        _install(world.kube)
        stack.enter_context(_nodes(world))
        yield world


def _install(kube: KubeApi) -> None:
    kube.create(object_path("apiextensions.k8s.io/v1", "customresourcedefinitions"), custom_resource_definition())
    for namespace in (CLUSTERS_NAMESPACE, FOREIGN_NAMESPACE, "litefs"):
        kube.create(
            object_path("v1", "namespaces"),
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        )
    path = object_path("litefs.io/v1alpha1", "litefsclusters")
    wait_for("the CRD", lambda: "items" in kube.get(path))


@contextlib.contextmanager
def _nodes(world: World) -> Iterator[None]:
    """Serves `/status` of all pods in a thread."""
    loop = asyncio.new_event_loop()

    async def serve() -> web.AppRunner:
        async def status(request: web.Request) -> web.Response:
            return await world.status(request)

        application = web.Application()
        application.add_routes([web.get("/status", status)])
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", world.node_port).start()
        return runner

    runner = loop.run_until_complete(serve())
    threading.Thread(target=loop.run_forever, daemon=True).start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(START_S)
        loop.call_soon_threadsafe(loop.stop)


def condition(cluster: dict[str, Any], kind: str) -> str:
    """Returns the status of a condition; "" if there is none."""
    conditions = cluster.get("status", {}).get("conditions") or []
    return next((str(entry["status"]) for entry in conditions if entry["type"] == kind), "")

"""NetworkPolicies: those of the chart keep strangers from Consul, and those of an application need not keep LiteFS out.

The cluster enforces them (`e2e.enforcer`): that the chart's forbid nothing that is needed, every other test shows too.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from e2e import workloads
from e2e.blog import PODS, Blog
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.installation import CONSUL, OPERATORS, Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.tools import REPOSITORY
from e2e.workloads import PORT

EXAMPLE = REPOSITORY / "manifests" / "examples" / "network-policy.yaml"

HTTP, SERVER, SERF = 8500, 8300, 8301
"""Ports of Consul: for clients, and of its servers among themselves."""

WEBHOOK, METRICS, NODE = 9443, 8080, 20202

THREE = "three"
SERVERS = [f"{THREE}-{CONSUL}-{ordinal}" for ordinal in range(3)]
STRANGER = "stranger"
CLIENT = "client"
"""Has a sidecar's label, and nothing else of it."""

_CONNECT = """\
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def connects(place):
    host, port = place.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True

places = sys.argv[1:]
with ThreadPoolExecutor(len(places)) as threads:
    print(*(place for place, does in zip(places, threads.map(connects, places)) if does))
"""


@pytest.fixture(scope="module")
def outside(kubectl: Kubectl, target: Target, installation: Installation) -> Iterator[Kubectl]:
    """A namespace beside that of the application, with a stranger and a client of Consul."""
    one = Kubectl(target.kubectl, target.kubeconfig, f"{kubectl.namespace}-outside")
    one.create_namespace()
    client = workloads.pod(CLIENT, target.application_image)
    client["metadata"]["labels"]["litefs.io/cluster"] = CLIENT
    one.apply(workloads.script(), workloads.pod(STRANGER, target.application_image), client)
    one.wait_ready(STRANGER, CLIENT)
    if not target.is_own and reached(one, STRANGER, [address(installation.kubectl, f"{CONSUL}-0")], HTTP):
        pytest.skip("this cluster does not enforce NetworkPolicies")
    yield one
    one("delete", "namespace", one.namespace, "--wait=false")


def address(kubectl: Kubectl, pod: str) -> str:
    return str(kubectl.get("pod", pod)["status"]["podIP"])


def operator_address(installation: Installation) -> str:
    return installation.kubectl("get", "pods", "-l", OPERATORS, "-o", "jsonpath={.items[0].status.podIP}")


def reached(kubectl: Kubectl, pod: str, hosts: Iterable[str], *ports: int) -> set[str]:
    """Where a pod gets a connection, of all these ports of all these hosts, as HOST:PORT."""
    places = [f"{host}:{port}" for host in hosts for port in ports]
    return set(kubectl.execute(pod, "application", ["python3", "-c", _CONNECT, *places]).split())


def wait_reached(kubectl: Kubectl, pod: str, host: str, *ports: int) -> None:
    """What is allowed is so a moment after it was written, or after the pod began."""

    def are_reached() -> bool:
        return len(reached(kubectl, pod, [host], *ports)) == len(ports)

    wait_until(f"{pod} reaches {host} at {ports}", are_reached, timeout_s=READY_TIMEOUT_S)


def test_a_stranger_reaches_the_webhook_and_the_metrics_but_not_consul(
    outside: Kubectl, installation: Installation
) -> None:
    wait_reached(outside, STRANGER, operator_address(installation), WEBHOOK, METRICS)
    consul = address(installation.kubectl, f"{CONSUL}-0")
    wait_reached(outside, CLIENT, consul, HTTP)
    assert reached(outside, CLIENT, [consul], SERVER, SERF) == set()
    service = f"{CONSUL}.{installation.kubectl.namespace}.svc"
    assert reached(outside, STRANGER, [consul, service], HTTP, SERVER, SERF) == set()


def test_three_servers_of_consul_reach_each_other_and_a_stranger_only_without_the_policy(
    outside: Kubectl, installation: Installation
) -> None:
    values = ["--set", "consul.replicas=3", "--set", "consul.storage.persistent=false"]
    manifests = installation.render(THREE, outside.namespace, "--show-only", "templates/consul.yaml", *values)
    outside("apply", "-f", "-", stdin=manifests)
    outside.wait_ready(*SERVERS)

    def get(server: str, path: str) -> Any:
        url = f"http://{address(outside, server)}:{HTTP}/v1/{path}"
        return json.loads(outside.execute(CLIENT, "application", ["curl", "--silent", "--fail", url]))

    def hears_of_others_by_udp(server: str) -> bool:
        try:
            counters = get(server, "agent/metrics")["Counters"]
        except CommandError:  # it cannot say anything of its first seconds
            return False
        return any(counter["Name"] == "consul.memberlist.udp.received" for counter in counters)

    voters = {voter["Node"] for voter in get(SERVERS[0], "operator/raft/configuration")["Servers"] if voter["Voter"]}
    assert voters == set(SERVERS)
    wait_until("UDP at each server", lambda: all(map(hears_of_others_by_udp, SERVERS)), timeout_s=READY_TIMEOUT_S)
    server = address(outside, SERVERS[0])
    assert reached(outside, STRANGER, [server], HTTP, SERVER, SERF) == set()
    outside("delete", "networkpolicy", f"{THREE}-{CONSUL}")
    wait_reached(outside, STRANGER, server, HTTP, SERVER, SERF)


def test_where_all_else_is_forbidden_the_example_allows_what_an_application_needs(
    kubectl: Kubectl, outside: Kubectl, target: Target, installation: Installation
) -> None:
    kubectl("apply", "-f", str(EXAMPLE))
    blog = Blog(kubectl, target.application_image)
    pods = PODS[:2]
    blog.start(replicas=len(pods))
    old = blog.primary()
    kubectl("delete", "pod", old)
    wait_until("another primary", lambda: blog.primary() != old, timeout_s=READY_TIMEOUT_S)
    blog.wait_running(len(pods))
    blog.send("by the new primary")
    for pod in pods:
        blog.wait_rows(pod, "by the new primary", 1)
    assert reached(outside, STRANGER, map(blog.address, pods), NODE, PORT) == set()
    assert reached(kubectl, pods[0], [operator_address(installation)], METRICS) == set()

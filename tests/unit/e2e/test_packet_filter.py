"""The packet filter of the e2e cluster says what NetworkPolicies mean, and refuses what it does not know."""

from typing import Any

import pytest

from e2e import packet_filter
from e2e.packet_filter import Manifest

NODE = "10.0.0.1"
NAMESPACES = [
    {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "team": name}}} for name in ("a", "b")
]


def pod(address: str, namespace: str = "a", *, phase: str = "Running", **labels: str) -> Manifest:
    metadata = {"namespace": namespace, "labels": labels}
    return {"metadata": metadata, "spec": {"containers": [{}]}, "status": {"podIP": address, "phase": phase}}


SERVER = pod("10.0.0.2", app="server")
CLIENT = pod("10.0.0.3", app="client")
FOREIGN_CLIENT = pod("10.0.0.4", "b", app="client")
PODS = [SERVER, CLIENT, FOREIGN_CLIENT]


def policy(*rules: Manifest, direction: str = "Ingress") -> Manifest:
    """One that isolates the server."""
    spec: Manifest = {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": [direction]}
    return {"metadata": {"namespace": "a"}, "spec": spec | {direction.lower(): list(rules)}}


def lines(*policies: Manifest, pods: list[Manifest] = PODS) -> list[str]:
    """Those that isolate pods."""
    text = packet_filter.rules(NODE, list(policies), pods, NAMESPACES)
    assert text.startswith("*security\n")
    assert text.endswith("\nCOMMIT\n")
    return [line for line in text.splitlines() if "10.0.0." in line]


def allowed(*rules: Manifest, direction: str = "Ingress", pods: list[Manifest] = PODS) -> list[str]:
    """What the server's chain lets through, beside the server itself."""
    declared, jump, itself, *matches, drop = lines(policy(*rules, direction=direction), pods=pods)
    chain = f"{direction}-10.0.0.2"
    own, other = ("-d", "-s") if direction == "Ingress" else ("-s", "-d")
    assert declared == f":{chain} - [0:0]"
    assert jump == f"-A POLICIES {own} 10.0.0.2 -j {chain}"
    assert itself == f"-A {chain} {other} 10.0.0.2 -j RETURN"
    assert drop == f"-A {chain} -j DROP"
    return [match.removeprefix(f"-A {chain} ").removesuffix("-j RETURN").strip() for match in matches]


def test_without_a_policy_nothing_is_isolated() -> None:
    assert lines() == []


@pytest.mark.parametrize("direction", ["Ingress", "Egress"])
def test_a_policy_isolates_what_it_selects_in_its_direction_alone(direction: str) -> None:
    assert allowed(direction=direction) == []


def test_a_policy_without_a_selector_isolates_its_namespace() -> None:
    deny = {"metadata": {"namespace": "a"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    dropped = [line.split()[1] for line in lines(deny) if line.endswith("DROP")]
    assert dropped == ["Ingress-10.0.0.2", "Egress-10.0.0.2", "Ingress-10.0.0.3", "Egress-10.0.0.3"]


def test_two_policies_allow_what_either_does() -> None:
    ports = [policy({"ports": [{"port": number, "protocol": "TCP"}]}) for number in (80, 81)]
    assert [line for line in lines(*ports) if "--dport" in line] == [
        "-A Ingress-10.0.0.2 -p tcp --dport 80 -j RETURN",
        "-A Ingress-10.0.0.2 -p tcp --dport 81 -j RETURN",
    ]


@pytest.mark.parametrize(
    ("peers", "addresses"),
    [
        ([{"podSelector": {"matchLabels": {"app": "client"}}}], ["-s 10.0.0.3"]),
        ([{"podSelector": {}}], ["-s 10.0.0.2", "-s 10.0.0.3"]),
        (
            [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}],
            ["-s 10.0.0.3", "-s 10.0.0.4"],
        ),
        ([{"namespaceSelector": {"matchLabels": {"team": "b"}}}], ["-s 10.0.0.4"]),
        ([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "nobody"}}}], []),
        (
            [
                {"podSelector": {"matchLabels": {"app": "client"}}},
                {"namespaceSelector": {"matchLabels": {"team": "b"}}},
            ],
            ["-s 10.0.0.3", "-s 10.0.0.4"],
        ),
        ([], [""]),
    ],
)
def test_peers_are_pods_of_the_policy_s_namespace_or_of_those_selected(peers: list[Any], addresses: list[str]) -> None:
    assert allowed({"from": peers}) == addresses
    assert allowed({"to": peers}, direction="Egress") == [address.replace("-s", "-d") for address in addresses]


@pytest.mark.parametrize(
    ("expression", "addresses"),
    [
        ({"operator": "Exists"}, ["-s 10.0.0.2", "-s 10.0.0.3"]),
        ({"operator": "DoesNotExist"}, ["-s 10.0.0.5"]),
        ({"operator": "In", "values": ["client", "else"]}, ["-s 10.0.0.3"]),
        ({"operator": "NotIn", "values": ["client"]}, ["-s 10.0.0.2", "-s 10.0.0.5"]),
    ],
)
def test_expressions_mean_what_they_do_in_kubernetes(expression: Manifest, addresses: list[str]) -> None:
    peer = {"podSelector": {"matchExpressions": [{"key": "app", **expression}]}}
    assert allowed({"from": [peer]}, pods=[*PODS, pod("10.0.0.5")]) == addresses


def test_each_port_is_open_to_each_peer() -> None:
    ports = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"protocol": "TCP"}]
    peers = [{"podSelector": {"matchLabels": {"app": "client"}}}]
    assert allowed({"from": peers, "ports": ports}) == [
        "-s 10.0.0.3 -p udp --dport 53",
        "-s 10.0.0.3 -p tcp --dport 53",
        "-s 10.0.0.3 -p tcp",
    ]
    assert allowed({"ports": ports[:1]}) == ["-p udp --dport 53"]


@pytest.mark.parametrize(
    "rule",
    [
        {"ports": [{"port": "http", "protocol": "TCP"}]},
        {"ports": [{"port": 1, "endPort": 9, "protocol": "TCP"}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    ],
)
def test_what_is_not_enforced_is_refused(rule: Manifest) -> None:
    with pytest.raises(ValueError, match="not enforced here"):
        lines(policy(rule))


def test_the_node_reaches_the_ports_of_probes() -> None:
    containers = [
        {"ports": [{"name": "http", "containerPort": 80}], "readinessProbe": {"httpGet": {"port": "http"}}},
        {"startupProbe": {"tcpSocket": {"port": 81}}, "livenessProbe": {"exec": {"command": ["true"]}}},
    ]
    spec = {"initContainers": [{"livenessProbe": {"httpGet": {"port": 82}}}], "containers": containers}
    assert allowed(pods=[SERVER | {"spec": spec}]) == [f"-s {NODE} -p tcp --dport {port}" for port in (80, 81, 82)]


def test_pods_without_an_address_of_their_own_are_left_out() -> None:
    waiting = SERVER | {"status": {"phase": "Pending"}}
    of_the_node = SERVER | {"spec": {"hostNetwork": True, "containers": [{}]}}
    ended = [pod("10.0.0.2", phase=phase, app="server") for phase in ("Succeeded", "Failed")]
    assert lines(policy({"from": [{"podSelector": {}}]}), pods=[waiting, of_the_node, *ended]) == []

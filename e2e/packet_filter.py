"""The packet filter that NetworkPolicies ask for: what a network plug-in that enforces them would let through.

Plug-ins differ in what they let through beyond the policies. This one lets through as little as any of them, so what
works here works with each:

    from the node      to the ports of probes alone: the API server, which is here, may be on another machine
    to the node        under policies of direction Egress: DNS, which is here, may be a pod
    named ports        refused: OVN-Kubernetes does not know them
    what is forbidden  dropped, and not answered

Addresses are those of pods on both sides: the table `security` is asked after the address of a Service was replaced,
and before that of a sender is. Nobody else has rules there, so all of them are replaced at once. Connections that are
established stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]

_HEAD = """\
*security
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POLICIES - [0:0]
-A INPUT -j POLICIES
-A FORWARD -j POLICIES
-A OUTPUT -j POLICIES
-A POLICIES -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
"""
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Direction:
    """How the two directions differ.

    Attributes:
        name: as in `policyTypes`.
        rules, peers: keys of a policy's spec, and of a rule.
        own, other: options of iptables for the address of the pod that is isolated, and for those of its peers.
    """

    name: str
    rules: str
    peers: str
    own: str
    other: str


_INGRESS = _Direction(name="Ingress", rules="ingress", peers="from", own="-d", other="-s")
_EGRESS = _Direction(name="Egress", rules="egress", peers="to", own="-s", other="-d")


def rules(node_address: str, policies: list[Manifest], pods: list[Manifest], namespaces: list[Manifest]) -> str:
    """Returns the whole filter of a node, as `iptables-restore` reads it.

    Args:
        node_address: from which its kubelet probes pods.
        policies, pods, namespaces: all of the cluster.

    Raises:
        ValueError: a policy has something that is not enforced here.
    """
    labels = {namespace["metadata"]["name"]: _labels(namespace) for namespace in namespaces}
    there = sorted(filter(_has_address, pods), key=_address)
    lines = [_HEAD.rstrip()]
    for pod in there:
        own = [policy for policy in policies if _selects(policy, pod)]
        probes = [f"-s {node_address} -p tcp --dport {port} " for port in sorted(_probed_ports(pod))]
        for direction, beside in ((_INGRESS, probes), (_EGRESS, [])):
            # The API server has filled policyTypes in.
            isolating = [policy for policy in own if direction.name in policy["spec"]["policyTypes"]]
            allowed = [match for policy in isolating for match in _allowed(policy, direction, there, labels)]
            if isolating:
                itself = f"{direction.other} {_address(pod)} "
                lines += _chain(_address(pod), direction, [itself, *beside, *allowed])
    return "\n".join([*lines, "COMMIT", ""])


def _chain(address: str, direction: _Direction, allowed: list[str]) -> Iterator[str]:
    chain = f"{direction.name}-{address}"
    yield f":{chain} - [0:0]"
    yield f"-A POLICIES {direction.own} {address} -j {chain}"
    for match in allowed:
        yield f"-A {chain} {match}-j RETURN"
    yield f"-A {chain} -j DROP"


def _allowed(
    policy: Manifest, direction: _Direction, pods: list[Manifest], namespaces: dict[str, dict[str, str]]
) -> Iterator[str]:
    """What a policy allows, as options of iptables, each with a space at its end; "" is everything."""
    for rule in policy["spec"].get(direction.rules) or []:
        if rule.get(direction.peers):
            selectors = [_peer(peer, policy["metadata"]["namespace"]) for peer in rule[direction.peers]]
            found = [pod for pod in pods if any(_is_peer(pod, *pair, namespaces) for pair in selectors)]
            peers = [f"{direction.other} {_address(pod)} " for pod in found]
        else:
            peers = [""]
        yield from (f"{peer}{port}" for peer in peers for port in _ports(rule))


def _peer(peer: Manifest, namespace: str) -> tuple[Manifest, Manifest]:
    """Selectors of a peer's namespaces and pods."""
    if not peer.keys() <= {"podSelector", "namespaceSelector"}:
        raise ValueError(f"not enforced here: {peer}")
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return peer.get("namespaceSelector", here), peer.get("podSelector", {})


def _is_peer(pod: Manifest, of_namespace: Manifest, of_pod: Manifest, namespaces: dict[str, dict[str, str]]) -> bool:
    # A namespace that is not known yet has no labels; when it is, everything is asked anew.
    labels = namespaces.get(pod["metadata"]["namespace"], {})
    return _matches(of_namespace, labels) and _matches(of_pod, _labels(pod))


def _ports(rule: Manifest) -> Iterator[str]:
    for port in rule.get("ports") or [{}]:
        number = port.get("port")
        if isinstance(number, str) or "endPort" in port:
            raise ValueError(f"not enforced here: {port}")
        protocol = f"-p {port['protocol'].lower()} " if port else ""
        yield protocol + (f"--dport {number} " if number else "")


def _selects(policy: Manifest, pod: Manifest) -> bool:
    is_there = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return is_there and _matches(policy["spec"]["podSelector"], _labels(pod))


def _matches(selector: Manifest, labels: dict[str, str]) -> bool:
    wanted = (selector.get("matchLabels") or {}).items()
    return wanted <= labels.items() and all(
        _holds(expression, labels) for expression in selector.get("matchExpressions") or []
    )


def _holds(expression: Manifest, labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    answers = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return answers[expression["operator"]]


def _has_address(pod: Manifest) -> bool:
    """Whether it has one of its own: neither the node's, nor one that another pod may have by now."""
    status = pod["status"]
    return "podIP" in status and not pod["spec"].get("hostNetwork") and status["phase"] not in {"Succeeded", "Failed"}


def _address(pod: Manifest) -> str:
    return str(pod["status"]["podIP"])


def _labels(one: Manifest) -> dict[str, str]:
    found: dict[str, str] = one["metadata"].get("labels") or {}
    return found


def _probed_ports(pod: Manifest) -> set[int]:
    found = set()
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        numbers = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        probes = [container[kind] for kind in _PROBES if kind in container]
        actions = [probe.get("httpGet") or probe.get("tcpSocket") for probe in probes]
        found |= {numbers.get(action["port"], action["port"]) for action in actions if action}
    return found

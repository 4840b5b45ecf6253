from typing import Any

import pytest

from litefs_operator.builders.services import disruption_budget, services
from litefs_operator.crd import ClusterSpec
from litefs_operator.schema import parse

CLUSTER: dict[str, Any] = {"metadata": {"name": "blog", "namespace": "web", "uid": "u-1"}}


def selectors(primary_node: str | None) -> dict[str, dict[str, str]]:
    found = services(CLUSTER, ClusterSpec(), primary_node=primary_node)
    return {entry["metadata"]["name"]: entry["spec"]["selector"] for entry in found}


def test_only_the_selector_of_rw_depends_on_the_primary() -> None:
    before, after = selectors("9C3F"), selectors("01AB")
    assert before["blog-rw"] == {"litefs.io/cluster": "blog", "litefs.io/node": "9C3F"}
    assert {name for name in before if before[name] != after[name]} == {"blog-rw"}


def test_without_a_primary_rw_selects_nobody() -> None:
    assert selectors(None)["blog-rw"]["litefs.io/node"] == "none"


def test_nodes_is_headless_and_names_pods_that_are_not_ready() -> None:
    nodes = services(CLUSTER, ClusterSpec(), primary_node=None)[3]
    assert nodes["metadata"]["name"] == "blog-nodes"
    assert nodes["spec"]["clusterIP"] == "None"
    assert nodes["spec"]["publishNotReadyAddresses"] is True


def test_everything_goes_with_its_cluster() -> None:
    budget = disruption_budget(CLUSTER, member_n=3)
    assert budget is not None
    for entry in [*services(CLUSTER, ClusterSpec(), primary_node=None), budget]:
        assert entry["metadata"]["namespace"] == "web"
        assert entry["metadata"]["ownerReferences"][0]["uid"] == "u-1"


@pytest.mark.parametrize(("member_n", "available"), [(2, 1), (3, 2), (7, 6)])
def test_one_node_at_a_time_may_be_drained(member_n: int, available: int) -> None:
    budget = disruption_budget(CLUSTER, member_n=member_n)
    assert budget is not None
    assert budget["spec"]["minAvailable"] == available


@pytest.mark.parametrize("member_n", [0, 1])
def test_a_single_node_may_always_be_drained(member_n: int) -> None:
    assert disruption_budget(CLUSTER, member_n=member_n) is None


def test_the_ports_of_the_application_are_those_of_all_but_the_headless_service() -> None:
    ports = [{"name": "web", "port": 80, "targetPort": "http"}, {"name": "admin", "port": 81}]
    spec = parse(ClusterSpec, {"service": {"ports": ports}, "http": {"port": 2020}})
    *others, nodes = services(CLUSTER, spec, primary_node=None)
    for service in others:
        targets = {port["name"]: (port["port"], port["targetPort"]) for port in service["spec"]["ports"]}
        assert targets == {"litefs": (2020, 2020), "web": (80, "http"), "admin": (81, 81)}
    assert [port["name"] for port in nodes["spec"]["ports"]] == ["litefs"]


def test_a_pod_that_never_gets_ready_does_not_block_a_drain() -> None:
    budget = disruption_budget(CLUSTER, member_n=3)
    assert budget is not None
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"

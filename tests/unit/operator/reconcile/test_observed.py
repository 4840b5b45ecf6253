import copy
import json
from typing import Any

import pytest

from litefs_operator.builders.services import disruption_budget, services
from litefs_operator.crd import ClusterSpec
from litefs_operator.reconcile.observed import budget_of, member_of, service_of
from litefs_operator.reconcile.selectors import selects
from tests.unit.operator.reconcile.seen import CLUSTER

Manifest = dict[str, Any]
POD: Manifest = {
    "metadata": {
        "namespace": "web",
        "name": "blog-0",
        "uid": "p",
        "labels": {"litefs.io/cluster": "blog", "litefs.io/node": "AB", "litefs.io/role": "replica", "app": "blog"},
        "annotations": {"litefs.io/config": "{}"},
        "ownerReferences": [{"kind": "StatefulSet", "name": "blog", "uid": "s", "controller": True}],
    },
    "spec": {"nodeName": "n1", "volumes": [{"name": "litefs-data", "persistentVolumeClaim": {"claimName": "c"}}]},
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
    },
}


def changed(path: str, value: Any) -> Manifest:
    pod = copy.deepcopy(POD)
    *parents, last = path.split(".")
    place = pod
    for part in parents:
        place = place[part]
    place[last] = value
    return pod


def test_what_is_kept_of_a_pod() -> None:
    member = member_of(POD)
    assert (member.name, member.cluster, member.ip, member.node_name) == ("blog-0", "blog", "10.0.0.1", "n1")
    assert (member.node, member.role, member.is_ready) == ("AB", "replica", True)
    assert member.counts
    assert (member.controller, member.claim) == ("s", "c")


def test_the_port_is_that_of_the_sidecar_in_the_pod() -> None:
    sidecar = {"name": "litefs", "ports": [{"containerPort": 3000}]}
    pod = changed("spec.initContainers", [{"name": "wait", "ports": [{"containerPort": 80}]}, sidecar])
    assert member_of(pod).port == 3000
    assert member_of(POD).port == 0


@pytest.mark.parametrize(
    ("lease", "place"),
    [
        ({"advertise-url": "http://10.1.1.1:1", "consul": {"url": "http://c", "key": "k"}}, "http://c, key k"),
        (
            {"type": "static", "advertise-url": "http://blog-0.blog-nodes.web.svc:1"},
            "http://blog-0.blog-nodes.web.svc:1",
        ),
        ({}, ""),
        ([], ""),
    ],
)
def test_the_lease_is_where_the_configuration_in_the_pod_says(lease: Any, place: str) -> None:
    pod = changed("metadata.annotations", {"litefs.io/config": json.dumps({"lease": lease})})
    assert member_of(pod).lease == place


@pytest.mark.parametrize("text", ["", "{", "[]", "no: json"])
def test_what_is_no_configuration_of_ours_says_nothing_of_a_lease(text: str) -> None:
    assert member_of(changed("metadata.annotations", {"litefs.io/config": text})).lease == ""


def test_a_pod_that_is_only_created_has_nothing_yet() -> None:
    member = member_of({"metadata": POD["metadata"], "spec": {}})
    assert (member.ip, member.node_name, member.is_ready) == ("", "", False)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.deletionTimestamp", "2026-11-21T09:00:00Z"),
        ("status.phase", "Succeeded"),
        ("status.phase", "Failed"),
        ("metadata.ownerReferences", [{"kind": "Job", "name": "j", "uid": "j"}]),
    ],
)
def test_what_ends_or_belongs_to_a_job_does_not_count(path: str, value: Any) -> None:
    assert not member_of(changed(path, value)).counts


@pytest.mark.parametrize("volume", [{"emptyDir": {}}, {"ephemeral": {}}])
def test_a_volume_that_goes_with_the_pod_is_not_durable(volume: Manifest) -> None:
    pod = changed("spec.volumes", [{"name": "litefs-data", **volume}])
    assert member_of(pod).claim == ""


def test_the_data_volume_is_the_one_that_the_pod_names() -> None:
    pod = changed("metadata.annotations", {"litefs.io/data-volume": "mine"})
    assert member_of(pod).claim == ""
    pod["spec"]["volumes"].append({"name": "mine", "persistentVolumeClaim": {"claimName": "d"}})
    assert member_of(pod).claim == "d"


def as_the_api_server_has_it(manifest: Manifest) -> Manifest:
    """With what it adds to a Service."""
    stored = copy.deepcopy(manifest)
    stored["spec"] = {"clusterIP": "10.96.0.7", "sessionAffinity": "None", "type": "ClusterIP", **stored["spec"]}
    for port in stored["spec"]["ports"]:
        port["nodePort"] = 30000
    return stored


def test_a_service_that_comes_back_is_the_one_that_was_built() -> None:
    for built in services(CLUSTER, ClusterSpec(), primary_node="AB"):
        kept = service_of(as_the_api_server_has_it(built))
        assert kept.spec == built["spec"]
        assert (kept.cluster, kept.owner) == ("blog", "u-1")


def test_a_budget_that_comes_back_is_the_one_that_was_built() -> None:
    built = disruption_budget(CLUSTER, member_n=3)
    assert built is not None
    assert budget_of(copy.deepcopy(built)).spec == built["spec"]
    orphan = copy.deepcopy(built)
    del orphan["metadata"]["ownerReferences"]
    assert [budget_of(manifest).is_made_here for manifest in (built, orphan)] == [True, True]
    theirs = budget_of({"metadata": {"namespace": "web", "name": "x"}, "spec": {}})
    assert (theirs.owner, theirs.is_made_here) == ("", False)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"matchLabels": {"app": "blog"}}, True),
        ({"matchLabels": {"app": "shop"}}, False),
        ({"matchLabels": {"app": "blog", "zone": "a"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["blog", "shop"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["blog"]}]}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "blog"}, "matchExpressions": [{"key": "zone", "operator": "Exists"}]}, False),
    ],
)
def test_selectors_select_as_kubernetes_does(selector: Manifest, expected: bool) -> None:
    assert selects(selector, {"app": "blog"}) is expected

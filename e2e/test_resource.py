"""The LiteFSCluster itself: what the API server takes, what it refuses and in which words, and what it shows."""

from typing import Any

import pytest

from e2e import workloads
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.installation import Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl

pytestmark = pytest.mark.usefixtures("installation")


@pytest.fixture(scope="module")
def _empty_cluster(kubectl: Kubectl, installation: Installation) -> None:
    kubectl.apply(workloads.cluster("empty"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"lease": {"type": "static"}}, "lease.static.primary is required when lease.type is static"),
        ({"lease": {"static": {"primary": "blog-0"}}}, "lease.static needs lease.type: static"),
        ({"candidates": {"rule": "ordinals"}}, "candidates.below is required when candidates.rule is ordinals"),
        ({"lease": {"consul": {"ttl": "9.9s"}}}, "lease.consul.ttl: Consul takes from 10s to 24h"),
        ({"lease": {"consul": {"ttl": "25h"}}}, "lease.consul.ttl: Consul takes from 10s to 24h"),
        ({"mount": {"path": "/litefs"}}, "spec.mount.path"),
        ({"unheard": "of"}, "unheard"),
    ],
)
def test_refuses_a_spec_that_cannot_work(kubectl: Kubectl, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError) as refusal:
        kubectl.apply(workloads.cluster("refused", **spec))
    assert message in str(refusal.value)


def test_refuses_a_name_that_no_service_could_have(kubectl: Kubectl) -> None:
    with pytest.raises(CommandError, match=r"metadata\.name must be a DNS label of at most 48 characters"):
        kubectl.apply(workloads.cluster("a" * 49))


@pytest.mark.usefixtures("_empty_cluster")
def test_refuses_to_change_what_running_pods_rely_on(kubectl: Kubectl) -> None:
    with pytest.raises(CommandError, match=r"lease\.type cannot be changed"):
        kubectl.apply(workloads.cluster("empty", lease={"type": "static", "static": {"primary": "empty-0"}}))


@pytest.mark.usefixtures("_empty_cluster")
def test_a_cluster_without_pods_is_shown_as_one(kubectl: Kubectl) -> None:
    def row() -> list[str]:
        return kubectl("get", "lfs", "empty", "--no-headers").split()

    # READY PHASE NODES AGE: there is no primary to be shown.
    wait_until("the state of an empty cluster", lambda: row()[1:3] == ["False", "Pending"], timeout_s=READY_TIMEOUT_S)
    assert "0/0" in row()
    conditions = {entry["type"]: entry for entry in kubectl.get("lfs", "empty")["status"]["conditions"]}
    assert conditions["PrimaryElected"]["status"] == "False"
    assert conditions["LeaseBackendReachable"]["status"] == "True"


@pytest.mark.usefixtures("_empty_cluster")
def test_services_are_there_before_any_pod_is(kubectl: Kubectl) -> None:
    expected = {f"empty-{suffix}" for suffix in ("rw", "ro", "r", "nodes")}

    def names() -> set[str]:
        return set(kubectl("get", "services", "-o", "jsonpath={.items[*].metadata.name}").split())

    wait_until("the Services", lambda: expected <= names(), timeout_s=READY_TIMEOUT_S)


def test_explain_reads_like_documentation(kubectl: Kubectl) -> None:
    assert "A group of pods that share SQLite databases." in kubectl("explain", "litefscluster")
    assert "Which node is the primary." in kubectl("explain", "litefscluster.spec.lease")

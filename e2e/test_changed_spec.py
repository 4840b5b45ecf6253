"""A LiteFSCluster that is changed while a pod runs: what the pod keeps, and what the next one gets."""

import json
from typing import Any

import pytest

from e2e import workloads
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.installation import Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.workloads import CLUSTER

OLD, NEW = "made-before", "made-after"
CHANGE: dict[str, Any] = {"durability": "every-commit", "metrics": {"scrape": True}}


@pytest.fixture(scope="module", autouse=True)
def _changed(kubectl: Kubectl, target: Target, installation: Installation) -> None:
    for name, change in ((OLD, {}), (NEW, CHANGE)):
        pod = workloads.pod(name, target.application_image, asks=workloads.annotations())
        kubectl.apply(workloads.script(), workloads.cluster(data={"allowEphemeral": True}, **change), pod)
        kubectl.wait_ready(name)


def durability(kubectl: Kubectl, pod: str) -> str:
    """Returns what the sidecar says that it runs with."""
    told = kubectl.execute(pod, "litefs", ["litefs", "status", "-json"])
    return str(json.loads(told)["durability"])


def get(kubectl: Kubectl, pod: str, port: str, path: str) -> tuple[str, str]:
    """Returns status and body that a pod answers to another one, which has no token."""
    url = f"http://{kubectl.get('pod', pod)['status']['podIP']}:{port}{path}"
    asks = OLD if pod == NEW else NEW
    curl = ["curl", "--silent", "--show-error", "--max-time", "10", "--write-out", "%{http_code}", url]
    answer = kubectl.execute(asks, "application", curl)
    return answer[-3:], answer[:-3]


def test_each_pod_runs_with_the_durability_of_its_time(kubectl: Kubectl) -> None:
    assert (durability(kubectl, OLD), durability(kubectl, NEW)) == ("as-asked", "every-commit")


def test_a_prometheus_that_goes_by_annotations_reads_the_metrics_and_nothing_else(kubectl: Kubectl) -> None:
    annotations = kubectl.get("pod", NEW)["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    port, path = annotations["prometheus.io/port"], annotations["prometheus.io/path"]
    status, metrics = get(kubectl, NEW, port, path)
    assert (status, "\nlitefs_is_primary 0" in metrics) == ("200", True)
    assert get(kubectl, NEW, port, "/status")[0] == "401"
    assert get(kubectl, OLD, port, path)[0] == "401"


def test_a_pod_that_would_look_for_its_lease_elsewhere_is_refused(kubectl: Kubectl, target: Target) -> None:
    elsewhere = workloads.cluster(data={"allowEphemeral": True}, lease={"consul": {"url": "http://another:8500"}})
    here = workloads.cluster(data={"allowEphemeral": True}, **CHANGE)
    pod = workloads.pod("elsewhere", target.application_image, asks=workloads.annotations())
    kubectl.apply(elsewhere)
    try:
        with pytest.raises(CommandError, match=rf"the lease of the pod ({OLD}|{NEW}) is at .*\(LeaseElsewhere\)"):
            kubectl.apply(pod)
    finally:
        kubectl.apply(here)


def test_the_status_names_the_pods_that_are_to_be_replaced(kubectl: Kubectl) -> None:
    def up_to_date() -> tuple[str, str]:
        conditions = kubectl.get("litefscluster", CLUSTER)["status"]["conditions"]
        return next((entry["status"], entry["message"]) for entry in conditions if entry["type"] == "UpToDate")

    wait_until("the condition", lambda: up_to_date()[0] == "False", timeout_s=READY_TIMEOUT_S)
    assert OLD in up_to_date()[1]
    assert NEW not in up_to_date()[1]
    kubectl("delete", "pod", OLD, "--wait=false")
    wait_until("the condition of the others", lambda: up_to_date()[0] == "True", timeout_s=READY_TIMEOUT_S)

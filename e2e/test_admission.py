"""What the webhook lets in, what it refuses, in which words, and what it leaves behind."""

import json
from typing import Any

import pytest

from e2e import workloads
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.installation import OPERATOR, Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target

pytestmark = pytest.mark.usefixtures("installation")

EPHEMERAL = workloads.cluster("ephemeral", data={"allowEphemeral": True})


def node(target: Target, name: str = "node", **more: str) -> dict[str, Any]:
    return workloads.pod(name, target.application_image, asks=workloads.annotations("ephemeral", **more))


@pytest.fixture(scope="module", autouse=True)
def _cluster(kubectl: Kubectl, installation: Installation) -> None:
    kubectl.apply(EPHEMERAL, workloads.script())


def test_takes_a_cluster_and_its_pod_in_one_apply(kubectl: Kubectl, target: Target) -> None:
    pod = workloads.pod("together", target.application_image, asks=workloads.annotations("new"))
    kubectl.apply(workloads.cluster("new", data={"allowEphemeral": True}), pod)
    kubectl.wait_ready("together")
    kubectl("delete", "pod", "together", "--wait=false")


def test_a_dry_run_shows_the_sidecar_and_leaves_no_trace(kubectl: Kubectl, target: Target) -> None:
    kinds = "pods,secrets,configmaps,services,events"
    before = kubectl("get", kinds, "-o", "name")
    pod = json.dumps(node(target))
    shown = json.loads(kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=pod))
    assert [container["name"] for container in shown["spec"]["initContainers"]] == ["litefs"]
    with pytest.raises(CommandError):
        kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(node(target, inject="maybe")))
    assert kubectl("get", kinds, "-o", "name") == before


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        ({"inject": "True"}, 'write "true" or "false"'),
        ({"cluster": "nobody"}, "nobody"),
        ({"mountpath": "/a/b"}, "litefs.io/mountpath is not known"),
        ({"mount_path": "/litefs"}, "at least two levels deep"),
        ({"data_volume": "absent"}, 'names the volume "absent"'),
    ],
)
def test_a_refusal_says_what_to_change(kubectl: Kubectl, target: Target, asked: dict[str, str], advice: str) -> None:
    with pytest.raises(CommandError) as refusal:
        kubectl.apply(node(target, "refused", **asked))
    assert advice in str(refusal.value)


def test_data_that_would_be_gone_with_the_pod_are_refused_unless_allowed(kubectl: Kubectl, target: Target) -> None:
    kubectl.apply(workloads.cluster("lasting"))
    pod = workloads.pod("forgetful", target.application_image, asks=workloads.annotations("lasting"))
    with pytest.raises(CommandError, match=r"spec\.data\.allowEphemeral"):
        kubectl.apply(pod)
    warned = kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(node(target)), with_errors=True)
    assert "Warning: " in warned
    assert "emptyDir" in warned


def test_a_refusal_is_an_event_of_the_cluster(kubectl: Kubectl, target: Target) -> None:
    with pytest.raises(CommandError):
        kubectl.apply(node(target, "refused", mount_path="/litefs"))

    def reasons() -> list[str]:
        events = ["get", "events", "--field-selector=involvedObject.kind=LiteFSCluster"]
        return kubectl(*events, "-o", "jsonpath={.items[*].reason}").split()

    wait_until("an Event", lambda: "BadMountPath" in reasons(), timeout_s=READY_TIMEOUT_S)


def test_a_namespace_that_forbids_privileged_pods_is_told_so(kubectl: Kubectl, target: Target) -> None:
    label = "pod-security.kubernetes.io/enforce"
    kubectl("label", "namespace", kubectl.namespace, f"{label}=baseline")

    def is_refused_by_us() -> bool:
        try:
            kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(node(target)))
        except CommandError as refusal:
            return f"{label}=privileged" in str(refusal)
        return False

    try:
        # The operator has to hear of the label; until then it is Pod Security itself that refuses.
        wait_until("a refusal that says what to do", is_refused_by_us, timeout_s=READY_TIMEOUT_S)
    finally:
        kubectl("label", "namespace", kubectl.namespace, f"{label}-")


def test_without_the_webhook_plain_pods_start_and_annotated_ones_are_refused(
    kubectl: Kubectl, target: Target, installation: Installation
) -> None:
    installation.kubectl("scale", "deployment", OPERATOR, "--replicas=0")
    try:

        def is_refused() -> bool:
            try:
                kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(node(target)))
            except CommandError as refusal:
                return "inject.litefs.io" in str(refusal)
            return False

        wait_until("a refusal", is_refused, timeout_s=READY_TIMEOUT_S)
        kubectl.apply(workloads.pod("plain", target.application_image))
        kubectl.wait_ready("plain")
    finally:
        installation.kubectl("scale", "deployment", OPERATOR, "--replicas=2")
        installation.wait_operator()

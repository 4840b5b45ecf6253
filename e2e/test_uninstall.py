"""`helm uninstall` with an application that runs: nothing is stuck, nothing starts naked, no data are lost."""

import json

import pytest

from e2e import workloads
from e2e.blog import PODS, Blog
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.installation import RELEASE, Installation
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.workloads import CLUSTER

POLICY = "litefs-sidecar-required"


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation) -> Blog:
    blog = Blog(kubectl, target.application_image)
    blog.start(replicas=2, data={"allowEphemeral": True})
    blog.send("before the uninstall")
    for pod in PODS[:2]:
        blog.wait_rows(pod, "before the uninstall", 1)
    return blog


@pytest.fixture(scope="module")
def _uninstalled(blog: Blog, installation: Installation) -> None:
    installation.uninstall()


@pytest.mark.usefixtures("_uninstalled")
def test_plain_pods_start(kubectl: Kubectl, target: Target) -> None:
    kubectl.apply(workloads.pod("plain", target.application_image))
    kubectl.wait_ready("plain")


@pytest.mark.usefixtures("_uninstalled")
def test_annotated_pods_are_refused_in_words(kubectl: Kubectl, target: Target) -> None:
    pod = workloads.pod("naked", target.application_image, asks=workloads.annotations())

    def is_refused() -> bool:
        try:
            kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        except CommandError as refusal:
            return "the pod has no LiteFS sidecar" in str(refusal) and POLICY in str(refusal)
        return False

    # The API server hears of the webhook's end a moment later.
    wait_until("a refusal by the policy that stays", is_refused, timeout_s=READY_TIMEOUT_S)


@pytest.mark.usefixtures("_uninstalled")
def test_what_runs_goes_on_and_can_be_read(blog: Blog) -> None:
    for pod in PODS[:2]:
        assert blog.sql(pod, "select count(*) from t") == "1"
        assert blog.kubectl.restarts(pod) == {"litefs": 0, "application": 0}


@pytest.mark.usefixtures("_uninstalled")
def test_nothing_of_the_release_is_left_but_what_protects_data(blog: Blog, installation: Installation) -> None:
    kubectl = installation.kubectl
    kinds = "deployments,statefulsets,services,mutatingwebhookconfigurations,clusterroles,clusterrolebindings"
    kept = kubectl("get", kinds, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name").split()
    assert kept == []
    assert kubectl("get", "validatingadmissionpolicies", POLICY, "-o", "name")
    assert "finalizers" not in blog.kubectl.get("lfs", CLUSTER)["metadata"]


@pytest.mark.usefixtures("_uninstalled")
def test_no_pod_is_stuck_and_a_new_installation_has_the_data(blog: Blog, installation: Installation) -> None:
    blog.kubectl("scale", "statefulset", CLUSTER, "--replicas=0")
    for pod in PODS[:2]:
        gone = ["wait", "--for=delete", f"pod/{pod}", f"--timeout={GONE_TIMEOUT_S:.0f}s"]
        blog.kubectl(*gone, timeout_s=GONE_TIMEOUT_S + 10)
    installation.install()
    blog.kubectl("scale", "statefulset", CLUSTER, "--replicas=2")
    blog.wait_running(2)
    for pod in PODS[:2]:
        assert blog.sql(pod, "select count(*) from t where text = 'before the uninstall'") == "1"
    blog.send("after the installation")


@pytest.mark.usefixtures("_uninstalled")
def test_a_deleted_cluster_takes_its_services_and_leaves_its_token(blog: Blog) -> None:
    token = blog.kubectl.get("secret", f"{CLUSTER}-litefs-token")["data"]
    blog.kubectl("delete", "lfs", CLUSTER, f"--timeout={GONE_TIMEOUT_S:.0f}s", timeout_s=GONE_TIMEOUT_S + 10)

    def are_gone() -> bool:
        return f"{CLUSTER}-rw" not in blog.kubectl("get", "services", "-o", "name")

    wait_until("the end of the Services", are_gone, timeout_s=GONE_TIMEOUT_S)
    assert blog.kubectl.get("secret", f"{CLUSTER}-litefs-token")["data"] == token

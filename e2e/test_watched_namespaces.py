"""`watchNamespaces`: an operator that serves some namespaces, and has no rights in the others."""

import json
from collections.abc import Iterator

import pytest

from e2e import workloads
from e2e.blog import Blog
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.installation import NAMESPACE, OPERATOR, Installation
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.workloads import CLUSTER

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{OPERATOR}"
ENFORCE = "pod-security.kubernetes.io/enforce"


def _namespace(kubectl: Kubectl, target: Target, suffix: str) -> Iterator[Kubectl]:
    one = Kubectl(target.kubectl, target.kubeconfig, f"{kubectl.namespace}-{suffix}")
    one.create_namespace()
    yield one
    one("delete", "namespace", one.namespace, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def left_out(kubectl: Kubectl, target: Target) -> Iterator[Kubectl]:
    yield from _namespace(kubectl, target, "left-out")


@pytest.fixture(scope="module")
def deleted(kubectl: Kubectl, target: Target) -> Iterator[Kubectl]:
    """Is watched until a test deletes it."""
    yield from _namespace(kubectl, target, "deleted")


@pytest.fixture(scope="module", autouse=True)
def _watching(kubectl: Kubectl, deleted: Kubectl, installation: Installation) -> Iterator[None]:
    # One replica, for it is replaced three times here.
    installation.install(watchNamespaces=[kubectl.namespace, deleted.namespace], operator={"replicas": 1})
    yield
    installation.install()


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, left_out: Kubectl, target: Target) -> Blog:
    """Runs in a namespace that is watched, and was created after a LiteFSCluster in one that is not."""
    left_out.apply(workloads.cluster())
    blog = Blog(kubectl, target.application_image)
    blog.start(replicas=1, data={"allowEphemeral": True})
    return blog


def may(kubectl: Kubectl, *words: str) -> bool:
    """Whether the operator has a right in a namespace."""
    try:
        return kubectl("auth", "can-i", *words, f"--as={ACCOUNT}").strip() == "yes"
    except CommandError:
        return False


def created(kubectl: Kubectl, target: Target) -> str:
    """Returns what the API server says to an annotated pod, which is not kept."""
    pod = workloads.pod("tried", target.application_image, asks=workloads.annotations())
    try:
        return kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=json.dumps(pod))
    except CommandError as error:
        return str(error)


def test_a_cluster_in_a_watched_namespace_runs(blog: Blog) -> None:
    assert blog.condition("InjectionBlocked") == "False"
    blog.send("one row")


def test_the_operator_has_its_rights_there_and_nowhere_else(kubectl: Kubectl, left_out: Kubectl) -> None:
    for right in (["list", "pods"], ["patch", "services"], ["watch", "litefsclusters"], ["create", "secrets"]):
        assert (may(kubectl, *right), may(left_out, *right)) == (True, False)
    assert not may(kubectl, "get", "secrets")
    assert not may(kubectl, "list", "namespaces")


def test_a_pod_elsewhere_is_refused_in_words(left_out: Kubectl, target: Target) -> None:
    answer = created(left_out, target)
    assert "the pod has no LiteFS sidecar" in answer
    assert "watchNamespaces" in answer


@pytest.mark.usefixtures("blog")
def test_a_cluster_elsewhere_is_left_alone(left_out: Kubectl) -> None:
    assert "status" not in left_out.get("litefscluster", CLUSTER)
    assert left_out("get", "services,secrets", "-o", "name") == ""


def test_pod_security_that_the_operator_cannot_see_is_told_by_the_api_server(
    blog: Blog, kubectl: Kubectl, target: Target
) -> None:
    kubectl("label", "namespace", kubectl.namespace, f"{ENFORCE}=baseline")
    try:
        answer = created(blog.kubectl, target)
    finally:
        kubectl("label", "namespace", kubectl.namespace, f"{ENFORCE}-")
    assert 'violates PodSecurity "baseline' in answer


def test_a_watched_namespace_that_is_deleted_keeps_the_others_from_nothing(
    blog: Blog, deleted: Kubectl, target: Target, installation: Installation
) -> None:
    deleted("delete", "namespace", deleted.namespace, timeout_s=GONE_TIMEOUT_S)
    installation.kubectl("rollout", "restart", f"deployment/{OPERATOR}")
    installation.wait_operator()
    assert "name: litefs-mount" in created(blog.kubectl, target)
    blog.kubectl("delete", "service", f"{CLUSTER}-r")

    def is_back() -> bool:
        return f"service/{CLUSTER}-r\n" in blog.kubectl("get", "services", "-o", "name")

    wait_until("the Service that was deleted", is_back, timeout_s=READY_TIMEOUT_S)

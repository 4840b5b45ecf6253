"""The primary's pod goes, while clients write: another one takes over, and nothing acknowledged is lost."""

import json
import time
from collections.abc import Callable

import pytest

from e2e import workloads
from e2e.blog import PODS, RW_URL, Answer, Blog, serving_addresses
from e2e.commands import wait_until
from e2e.figures import Figures
from e2e.installation import Installation
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.target import Target

RUN_DOWN_S = 4.0
"""How long the application serves on after SIGTERM: a handoff that waits for its end would take longer."""


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation) -> Blog:
    blog = Blog(kubectl, target.application_image)
    blog.start(run_down_s=RUN_DOWN_S)
    return blog


def delete(blog: Blog, pod: str) -> None:
    blog.kubectl("delete", "pod", pod, "--wait=false")


def evict(blog: Blog, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{blog.kubectl.namespace}/pods/{pod}/eviction"
    blog.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def drain(blog: Blog, pod: str) -> None:
    """Drains its machine of this pod alone: there may be no other machine for the rest."""
    machine = blog.kubectl.get("pod", pod)["spec"]["nodeName"]
    selector = f"--pod-selector=statefulset.kubernetes.io/pod-name={pod}"
    words = ["drain", machine, selector, "--ignore-daemonsets", "--delete-emptydir-data"]
    try:
        blog.kubectl(*words, f"--timeout={GONE_TIMEOUT_S:.0f}s", timeout_s=GONE_TIMEOUT_S + 10)
    finally:
        blog.kubectl("uncordon", machine)


@pytest.mark.parametrize("remove", [delete, evict, drain])
def test_another_pod_takes_over_and_nothing_acknowledged_is_lost(
    blog: Blog, figures: Figures, remove: Callable[[Blog, str], None]
) -> None:
    old = blog.primary()
    old_address = blog.address(old)
    urls = [f"http://{blog.address(pod)}:{workloads.PORT}" for pod in PODS]
    selector = f"kubernetes.io/service-name={workloads.CLUSTER}-rw"
    log = ["logs", "--follow", old, "--container", "application"]
    with (
        blog.kubectl.watching("endpointslices", selector) as slices,
        blog.kubectl.running(*log) as lines,
        blog.client(RW_URL, *urls),
    ):
        uid = blog.kubectl.get("pod", old)["metadata"]["uid"]
        start_s = time.monotonic()
        remove(blog, old)

        def has_moved() -> bool:
            return any(is_acknowledged_elsewhere(answer, old) for answer in blog.answers() if answer.url == RW_URL)

        wait_until("a row through -rw at another pod", has_moved, timeout_s=READY_TIMEOUT_S)
        # Until the old pod is back in another life: what it would still take must not be missed.
        wait_until("the end of the old pod", lambda: blog.uid(old) != uid, timeout_s=GONE_TIMEOUT_S)
        answers = blog.answers()
        told_s = next(float(line.split()[-1]) for line in lines if line.startswith("told to end"))
    blog.wait_running()

    blog.wait_texts({answer.text for answer in answers if answer.code == 200})
    assert all(len(serving_addresses(state)) <= 1 for state in slices)
    assert next(addresses for addresses in map(serving_addresses, slices) if addresses) == {old_address}
    _report(figures, remove.__name__, answers, old, start_s, told_s)


def is_acknowledged_elsewhere(answer: Answer, old: str) -> bool:
    return answer.code == 200 and answer.answer != old


def _report(figures: Figures, how: str, answers: list[Answer], old: str, start_s: float, told_s: float) -> None:
    """The clocks of pods and test are one where the cluster is on this machine; elsewhere only the gaps count.

    Args:
        told_s: when the kubelet told the application to end: it begins the sidecar's preStop at the same moment.
    """
    for where, chosen in (
        ("at a sidecar", [answer for answer in answers if answer.url != RW_URL]),
        ("through -rw", [answer for answer in answers if answer.url == RW_URL]),
    ):
        last = max(answer.at_s for answer in chosen if answer.code == 200 and answer.answer == old)
        first = min(answer.at_s for answer in chosen if is_acknowledged_elsewhere(answer, old))
        detail = (
            f"{first - told_s:.2f} s after the preStop began, {first - last:.2f} s after the last at the old primary"
        )
        figures(f"primary's pod, {how} → row acknowledged {where}", first - start_s, detail)

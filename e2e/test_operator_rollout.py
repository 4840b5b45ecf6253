"""The operator is replaced while pods are created: none is refused, and running applications do not notice."""

import time

import pytest

from e2e.blog import PODS, RW_URL, Blog
from e2e.commands import wait_until
from e2e.creations import Creations
from e2e.figures import Figures
from e2e.installation import OPERATOR, Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation) -> Blog:
    blog = Blog(kubectl, target.application_image)
    blog.start(data={"allowEphemeral": True})
    return blog


def test_a_rolling_restart_refuses_no_pod(blog: Blog, installation: Installation, figures: Figures) -> None:
    creations = Creations(blog.kubectl, blog.image)
    with creations.going_on():
        installation.kubectl("rollout", "restart", "deployment", OPERATOR)
        installation.wait_operator()
        creations.wait_enough()
    figures.note(f"rolling restart of the operator: {len(creations.refusals)} of {creations.done_n} pods refused")
    assert creations.refusals == []


def test_a_new_certificate_refuses_no_pod(blog: Blog, installation: Installation, figures: Figures) -> None:
    creations = Creations(blog.kubectl, blog.image)
    loaded_n = installation.certificates()
    with creations.going_on():
        start_s = time.monotonic()
        installation.install(webhook={"certificates": {"generation": int(time.time())}})
        installation.wait_certificates(loaded_n)
        took_s = time.monotonic() - start_s
        creations.wait_enough()
    refused = f"{len(creations.refusals)} of {creations.done_n} pods refused"
    figures("new certificate by Helm, until both operators use it", took_s, refused)
    assert creations.refusals == []


def test_changed_values_roll_the_operator_and_no_application(blog: Blog, installation: Installation) -> None:
    uids = {pod: blog.uid(pod) for pod in PODS}
    operators = installation.operators("uid")
    with blog.client(RW_URL):
        before_n = len(blog.answers())
        installation.install(operator={"debug": True})
        wait_until("another row", lambda: len(blog.answers()) > before_n, timeout_s=READY_TIMEOUT_S)
        answers = blog.answers()
    # Helm waits for the new ones, not for the end of the old ones.
    are_replaced = "the end of the old operator's pods"
    wait_until(are_replaced, lambda: not operators & installation.operators("uid"), timeout_s=READY_TIMEOUT_S)
    assert {pod: blog.uid(pod) for pod in PODS} == uids
    assert all(set(blog.kubectl.restarts(pod).values()) == {0} for pod in PODS)
    assert [answer for answer in answers if answer.code != 200] == []
    installation.install()
    blog.wait_running()


def test_the_chart_tests_itself(installation: Installation) -> None:
    assert "Succeeded" in installation.helm("test", "litefs", "--timeout=180s")

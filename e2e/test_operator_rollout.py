"""The operator is replaced while pods are created: none is refused, and running applications do not notice."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e import workloads
from e2e.blog import PODS, RW_URL, Blog
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.figures import Figures
from e2e.installation import OPERATOR, Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target

CREATIONS_N = 50


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation) -> Blog:
    blog = Blog(kubectl, target.application_image)
    blog.start(data={"allowEphemeral": True})
    return blog


class Creations:
    """Creates pods without a pause, as far as the API server's admission goes: they are dry runs."""

    def __init__(self, kubectl: Kubectl, image: str) -> None:
        self.done_n = 0
        self.refusals: list[str] = []
        self._stopped = threading.Event()
        self._kubectl = kubectl
        self._pod = json.dumps(workloads.pod("created", image, asks=workloads.annotations()))
        self._thread = threading.Thread(target=self._create)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """For the block, and until there were enough of them after it."""
        self._thread.start()
        try:
            yield
            enough_n = self.done_n + CREATIONS_N // 2
            wait_until("creations", lambda: self.done_n >= max(enough_n, CREATIONS_N), timeout_s=READY_TIMEOUT_S)
        finally:
            self._stopped.set()
            self._thread.join()

    def _create(self) -> None:
        while not self._stopped.is_set():
            try:
                self._kubectl("create", "--dry-run=server", "-f", "-", stdin=self._pod)
            except CommandError as refusal:
                self.refusals.append(str(refusal))
            self.done_n += 1


def test_a_rolling_restart_refuses_no_pod(blog: Blog, installation: Installation, figures: Figures) -> None:
    creations = Creations(blog.kubectl, blog.image)
    with creations.going_on():
        installation.kubectl("rollout", "restart", "deployment", OPERATOR)
        installation.wait_operator()
    figures.note(f"rolling restart of the operator: {len(creations.refusals)} of {creations.done_n} pods refused")
    assert creations.refusals == []


def test_changed_values_roll_the_operator_and_no_application(blog: Blog, installation: Installation) -> None:
    uids = {pod: blog.uid(pod) for pod in PODS}
    operators = _operators(installation)
    with blog.client(RW_URL):
        before_n = len(blog.answers())
        installation.install(operator={"debug": True})
        wait_until("another row", lambda: len(blog.answers()) > before_n, timeout_s=READY_TIMEOUT_S)
        answers = blog.answers()
    # Helm waits for the new ones, not for the end of the old ones.
    are_replaced = "the end of the old operator's pods"
    wait_until(are_replaced, lambda: not operators & _operators(installation), timeout_s=READY_TIMEOUT_S)
    assert {pod: blog.uid(pod) for pod in PODS} == uids
    assert all(set(blog.kubectl.restarts(pod).values()) == {0} for pod in PODS)
    assert [answer for answer in answers if answer.code != 200] == []
    installation.install()
    blog.wait_running()


def _operators(installation: Installation) -> set[str]:
    label = "app.kubernetes.io/component=operator"
    return set(installation.kubectl("get", "pods", "-l", label, "-o", "jsonpath={.items[*].metadata.uid}").split())


def test_the_chart_tests_itself(installation: Installation) -> None:
    assert "Succeeded" in installation.helm("test", "litefs", "--timeout=180s")

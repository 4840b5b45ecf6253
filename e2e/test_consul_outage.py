"""Consul goes and comes back: writes stop and go on by themselves, and the LiteFSCluster says which."""

import time

import pytest

from e2e.blog import PODS, Blog
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.figures import Figures
from e2e.installation import CONSUL, Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation) -> Blog:
    blog = Blog(kubectl, target.application_image)
    blog.start()
    return blog


def test_writes_stop_without_consul_and_come_back_with_it(
    blog: Blog, installation: Installation, figures: Figures
) -> None:
    assert blog.condition("LeaseBackendReachable") == "True"
    start_s = time.monotonic()
    installation.kubectl("scale", "statefulset", CONSUL, "--replicas=0")
    try:
        wait_until(
            "LeaseBackendReachable=False",
            lambda: blog.condition("LeaseBackendReachable") == "False",
            timeout_s=READY_TIMEOUT_S,
        )
        figures("Consul scaled to 0 → LeaseBackendReachable=False", time.monotonic() - start_s)
        wait_until("the end of writes", lambda: not any(map(blog.accepts_write, PODS)), timeout_s=READY_TIMEOUT_S)
        figures("Consul scaled to 0 → no pod takes writes", time.monotonic() - start_s)
        wait_until("Ready=False", lambda: blog.condition("Ready") == "False", timeout_s=READY_TIMEOUT_S)
        # What is there can be read, everywhere.
        assert len({blog.sql(pod, "select count(*) from t") for pod in PODS}) == 1
    finally:
        installation.kubectl("scale", "statefulset", CONSUL, "--replicas=1")
    back_s = time.monotonic()
    wait_until("writes", lambda: _is_acknowledged(blog), timeout_s=READY_TIMEOUT_S)
    figures("Consul scaled to 1 → row acknowledged through -rw", time.monotonic() - back_s)
    blog.wait_running()
    assert blog.condition("LeaseBackendReachable") == "True"
    assert all(set(blog.kubectl.restarts(pod).values()) == {0} for pod in PODS)


def _is_acknowledged(blog: Blog) -> bool:
    try:
        blog.send("Consul is back")
    except CommandError:
        return False
    return True

"""SIGKILL of each process of the primary's pod: all goes on in the same pods, nothing is beside the mount."""

import contextlib
import itertools
import os
import signal
import time

import pytest

from e2e import cluster
from e2e.blog import PODS, RW_URL, Blog
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.figures import Figures
from e2e.installation import OPERATOR, Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.workloads import PORT

FILESYSTEM_PROCESS = "litefs.cli.filesystem_process"
SUPERVISOR = "litefs.cli.supervisor"
APPLICATION = "application.py serve"
OPERATOR_PROCESS = "litefs-operator run"


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation) -> Blog:
    if not target.is_own:
        pytest.skip("looks for processes on the node")
    blog = Blog(kubectl, target.application_image)
    blog.start()
    return blog


@pytest.mark.parametrize(
    ("process", "restarts"),
    [
        (FILESYSTEM_PROCESS, {"litefs": 0, "application": 0}),
        (SUPERVISOR, {"litefs": 1, "application": 0}),
        (APPLICATION, {"litefs": 0, "application": 1}),
    ],
)
def test_all_goes_on_in_the_same_pods_when_a_process_is_killed(
    blog: Blog, figures: Figures, process: str, restarts: dict[str, int]
) -> None:
    primary = blog.primary()
    uids = {pod: blog.uid(pod) for pod in PODS}
    before = blog.kubectl.restarts(primary)
    with blog.client(RW_URL, f"http://{blog.address(primary)}:{PORT}"):
        (pid,) = cluster.processes(process, pod_uid=uids[primary])
        sent_n = len(blog.answers())
        os.kill(pid, signal.SIGKILL)

        def have_failed_and_recovered() -> bool:
            codes = [answer.code == 200 for answer in blog.answers()[sent_n:] if answer.url == RW_URL]
            return False in codes and True in codes[codes.index(False) :]

        wait_until("errors, and rows acknowledged again", have_failed_and_recovered, timeout_s=READY_TIMEOUT_S)
        wait_until(f"the restarts of {primary}", lambda: _has_restarted(blog, primary, before, restarts), timeout_s=60)
        answers = blog.answers()
    blog.wait_running()
    assert {pod: blog.uid(pod) for pod in PODS} == uids

    through_service = [answer for answer in answers if answer.url == RW_URL]
    acknowledged = [answer for answer in through_service if answer.code == 200]
    gap_s = max(b.at_s - a.at_s for a, b in itertools.pairwise(acknowledged))
    errors = sorted({answer.answer for answer in answers if answer.code != 200})
    figures(f"SIGKILL of {process} → row acknowledged through -rw", gap_s, "; ".join(errors)[:200])
    blog.wait_texts({answer.text for answer in answers if answer.code == 200})
    for pod in PODS:
        assert cluster.below_mount(uids[pod], "litefs-mount", "data") == []


def _has_restarted(blog: Blog, pod: str, before: dict[str, int], more: dict[str, int]) -> bool:
    return blog.kubectl.restarts(pod) == {name: before[name] + more[name] for name in before}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_rw_follows_when_the_operator_that_acts_is_gone(
    blog: Blog, installation: Installation, figures: Figures, how: signal.Signals
) -> None:
    """One that hangs is neither started again nor closes what it has open: as on a machine that died."""
    acting = installation.kubectl.get("lease", OPERATOR)["spec"]["holderIdentity"]
    (pid,) = cluster.processes(OPERATOR_PROCESS, pod_uid=installation.kubectl.get("pod", acting)["metadata"]["uid"])
    old_address = blog.address(old := blog.primary())
    os.kill(pid, how)
    try:
        start_s = time.monotonic()
        blog.kubectl.execute(old, "litefs", ["litefs", "handoff", "-config", "/etc/litefs/litefs.yml"])
        has_moved = "-rw at another pod"
        wait_until(has_moved, lambda: not blog.addresses("rw") <= {old_address}, timeout_s=READY_TIMEOUT_S)
        figures(f"{how.name} of the operator that acts, the lease handed over → -rw moved", time.monotonic() - start_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    installation.wait_operator()
    blog.wait_running()


def test_the_application_cannot_write_beside_the_mount(blog: Blog) -> None:
    with pytest.raises(CommandError, match="Read-only file system"):
        blog.kubectl.execute(PODS[0], "application", ["sh", "-c", "echo x >/litefs/beside"])

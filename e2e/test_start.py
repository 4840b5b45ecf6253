"""What a sidecar costs a pod at its start."""

import statistics
import time
from typing import Any

import pytest

from e2e import workloads
from e2e.figures import Figures
from e2e.installation import Installation
from e2e.kubectl import Kubectl
from e2e.target import Target

ROUNDS = 3


@pytest.fixture(scope="module", autouse=True)
def _cluster(kubectl: Kubectl, target: Target, installation: Installation) -> None:
    """One node is there already: what a pod waits for must not be the first election."""
    first = workloads.pod("first", target.application_image, asks=workloads.annotations())
    kubectl.apply(workloads.script(), workloads.cluster(data={"allowEphemeral": True}), first)
    kubectl.wait_ready("first")


def test_a_pod_with_a_sidecar_starts(kubectl: Kubectl, target: Target, figures: Figures) -> None:
    plain: list[float] = []
    injected: list[float] = []
    for number in range(ROUNDS):
        for asks, times in ((None, plain), (workloads.annotations(), injected)):
            name = f"pod-{number}-{len(asks or {})}"
            times.append(_time_start(kubectl, workloads.pod(name, target.application_image, asks=asks)))
            kubectl("delete", "pod", name, "--wait=false")
    without = statistics.median(plain)
    more = statistics.median(injected) - without
    figures("pod created → Ready, beyond the same pod without a sidecar", more, f"which took {without:.1f} s")


def _time_start(kubectl: Kubectl, pod: dict[str, Any]) -> float:
    start = time.monotonic()
    kubectl.apply(pod)
    kubectl.wait_ready(pod["metadata"]["name"])
    return time.monotonic() - start

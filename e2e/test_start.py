"""What a sidecar costs a pod at its start."""

import os
import statistics
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from e2e import cluster, workloads
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


def test_the_mount_is_there_soon(kubectl: Kubectl, target: Target, figures: Figures) -> None:
    if not target.is_own:
        pytest.skip("looks for processes on the node")
    uid = kubectl.get("pod", "first")["metadata"]["uid"]
    (pid,) = cluster.processes("litefs.cli.supervisor", pod_uid=uid)
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    start_s = boot_s + ticks / os.sysconf("SC_CLK_TCK")
    log = kubectl("logs", "first", "-c", "litefs", "--timestamps").splitlines()
    (mounted,) = [line.split()[0] for line in log if "LiteFS mounted to" in line]
    figures("sidecar's process started → mounted", datetime.fromisoformat(mounted).timestamp() - start_s)


def _time_start(kubectl: Kubectl, pod: dict[str, Any]) -> float:
    start = time.monotonic()
    kubectl.apply(pod)
    kubectl.wait_ready(pod["metadata"]["name"])
    return time.monotonic() - start

"""Two candidates and a Consul in the cluster: who is primary is agreed on, and moves when its pod goes."""

import time
from typing import Any

import pytest

from e2e import manifests
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.target import Target

NODES = ("a", "b")
LEASE = """
type: consul
candidate: true
advertise-url: http://${POD_IP}:20202
consul:
  url: http://consul:8500
  key: litefs/e2e
"""


def sql(kubectl: Kubectl, pod: str, statement: str) -> str:
    return kubectl.execute(pod, "application", ["sqlite3", "-cmd", ".timeout 5000", manifests.DATABASE, statement])


def accepts_write(kubectl: Kubectl, pod: str) -> bool:
    try:
        sql(kubectl, pod, "create table if not exists t(x); insert into t values ('who is primary?')")
    except CommandError:
        return False
    return True


def node(name: str, target: Target) -> dict[str, Any]:
    return manifests.pod(
        name,
        sidecar_image=target.sidecar_image,
        application_image=target.application_image,
        configuration_name="candidate",
    )


@pytest.fixture(scope="module")
def _pods(kubectl: Kubectl, target: Target) -> None:
    kubectl.apply(*manifests.consul("consul", target.consul_image), manifests.configuration("candidate", LEASE))
    kubectl.wait_ready("consul")
    kubectl.apply(*(node(name, target) for name in NODES))
    kubectl.wait_ready(*NODES)


@pytest.fixture
def primary(kubectl: Kubectl) -> str:
    """The pod that takes writes; it is the only one."""
    found: list[str] = []

    def is_there() -> bool:
        found[:] = [name for name in NODES if accepts_write(kubectl, name)]
        return bool(found)

    wait_until("a primary", is_there, timeout_s=READY_TIMEOUT_S)
    assert len(found) == 1
    return found[0]


pytestmark = pytest.mark.usefixtures("_pods")


def test_the_other_pod_takes_over_when_the_primary_is_deleted_and_nothing_is_lost(
    kubectl: Kubectl, target: Target, primary: str
) -> None:
    other = next(name for name in NODES if name != primary)
    for number in range(20):
        sql(kubectl, primary, f"insert into t values ('acknowledged {number}')")
    start = time.monotonic()
    kubectl("delete", "pod", primary, "--wait=false")
    wait_until("a write at the other pod", lambda: accepts_write(kubectl, other), timeout_s=READY_TIMEOUT_S)
    print(f"writes accepted at the other pod {time.monotonic() - start:.1f} s after the deletion")
    assert sql(kubectl, other, "select count(*) from t where x like 'acknowledged%'").strip() == "20"
    kubectl("wait", "--for=delete", f"pod/{primary}", f"--timeout={GONE_TIMEOUT_S:.0f}s", timeout_s=GONE_TIMEOUT_S + 10)

    kubectl.apply(node(primary, target))
    kubectl.wait_ready(primary)
    assert sql(kubectl, primary, "select count(*) from t where x like 'acknowledged%'").strip() == "20"
    assert not accepts_write(kubectl, primary)

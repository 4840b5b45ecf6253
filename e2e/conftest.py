"""Fixtures: the cluster of a run, and a namespace for each module, whose state is told when a test fails.

Variables:
    E2E_KUBECONFIG: use this cluster and start none. Its nodes must get the images by themselves.
    E2E_IMAGE, E2E_APPLICATION_IMAGE, E2E_CONSUL_IMAGE: images in place of those that are assembled here.
    E2E_KEEP: leave the cluster as it is after the run.
"""

import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e import cluster, images
from e2e.commands import wait_until
from e2e.kubectl import GONE_TIMEOUT_S, Kubectl
from e2e.layout import KUBECONFIG, PROGRAMS_LINK
from e2e.tools import find_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A cluster to test on, and the names of the images that it has.

    Attributes:
        is_own: whether it was started here or by `make e2e-up`, so that a test may look into its node.
    """

    kubectl: Path | str
    kubeconfig: Path
    is_own: bool
    sidecar_image: str = os.environ.get("E2E_IMAGE", images.SIDECAR)
    application_image: str = os.environ.get("E2E_APPLICATION_IMAGE", images.APPLICATION)
    consul_image: str = os.environ.get("E2E_CONSUL_IMAGE", images.CONSUL)


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    """The cluster that E2E_KUBECONFIG names, else a new one for this run."""
    given = os.environ.get("E2E_KUBECONFIG")
    if given:
        is_own = Path(given) == KUBECONFIG
        program = PROGRAMS_LINK / "kubectl" if is_own else "kubectl"
        yield Target(kubectl=program, kubeconfig=Path(given), is_own=is_own)
        return
    tools = find_tools()
    archives = images.build_all(tools)
    try:
        cluster.up(tools, archives)
        yield Target(kubectl=PROGRAMS_LINK / "kubectl", kubeconfig=KUBECONFIG, is_own=True)
    finally:
        if not os.environ.get("E2E_KEEP"):
            cluster.down()


@pytest.fixture(scope="module")
def kubectl(target: Target, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """A namespace of this module alone; gone when its tests are done."""
    name = "e2e-" + re.sub(r"[^a-z0-9]+", "-", request.path.stem.removeprefix("test_"))
    kubectl = Kubectl(target.kubectl, target.kubeconfig, name)
    kubectl("create", "namespace", name)

    def has_account() -> bool:
        return "default" in kubectl("get", "serviceaccounts", "-o", "name")

    try:
        wait_until("the account of pods", has_account, timeout_s=GONE_TIMEOUT_S)
        yield kubectl
    finally:
        kubectl("delete", "namespace", name, f"--timeout={GONE_TIMEOUT_S:.0f}s", timeout_s=GONE_TIMEOUT_S + 10)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what the cluster says to the report of a failure, before anything is taken down."""
    report = yield
    kubectl = getattr(item, "funcargs", {}).get("kubectl")
    if report.failed and isinstance(kubectl, Kubectl):
        report.sections.append((f"cluster, namespace {kubectl.namespace}", kubectl.describe_everything()))
    return report

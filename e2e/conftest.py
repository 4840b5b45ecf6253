"""Fixtures: the cluster of a run, and a namespace for each module, whose state is told when a test fails.

Variables:
    E2E_KUBECONFIG: use this cluster and start none. Its nodes must get the images by themselves.
    E2E_IMAGE, E2E_OPERATOR_IMAGE, E2E_APPLICATION_IMAGE, E2E_CONSUL_IMAGE: images in place of those assembled here.
    E2E_KEEP: leave the cluster as it is after the run.
"""

import os
import secrets
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from e2e import cluster, images
from e2e.commands import wait_until
from e2e.errors import NotYetError, SetupError
from e2e.figures import Figures
from e2e.installation import NAMESPACE, Installation
from e2e.kubectl import GONE_TIMEOUT_S, Kubectl
from e2e.layout import KUBECONFIG, PROGRAMS_LINK
from e2e.target import Target
from e2e.tools import find_helm, find_tools

# Whoever ends the run early, as a time limit does, leaves no cluster behind either.
signal.signal(signal.SIGTERM, signal.default_int_handler)

_LINES = pytest.StashKey[list[str]]()
_TOLD = pytest.StashKey[list[Kubectl]]()
"""Namespaces whose state is told when a test fails."""


@pytest.fixture(scope="session")
def target(figures: Figures) -> Iterator[Target]:
    """The cluster that E2E_KUBECONFIG names, else a new one for this run."""
    given = os.environ.get("E2E_KUBECONFIG")
    try:
        with _given_cluster(Path(given)) if given else _new_cluster(figures) as target:
            yield target
    except SetupError as error:
        # Said once, not for every test.
        pytest.exit(str(error), returncode=2)


@contextmanager
def _given_cluster(kubeconfig: Path) -> Iterator[Target]:
    is_own = kubeconfig == KUBECONFIG
    program = PROGRAMS_LINK / "kubectl" if is_own else "kubectl"
    with cluster.claimed() if is_own else nullcontext():
        yield Target(kubectl=program, kubeconfig=kubeconfig, is_own=is_own)


@contextmanager
def _new_cluster(figures: Figures) -> Iterator[Target]:
    with cluster.claimed():
        tools = find_tools()
        start = time.monotonic()
        archives = images.build_all(tools)
        figures("images assembled", time.monotonic() - start)
        try:
            start = time.monotonic()
            cluster.up(tools, archives)
            figures("cluster up, images imported", time.monotonic() - start)
            yield Target(kubectl=PROGRAMS_LINK / "kubectl", kubeconfig=KUBECONFIG, is_own=True)
        finally:
            if not os.environ.get("E2E_KEEP"):
                cluster.down()


@pytest.fixture(scope="session")
def _ended(target: Target) -> Iterator[list[str]]:
    """Namespaces whose tests are done: they go while others run, and in the end none may be left."""
    names: list[str] = []
    yield names
    kubectl = Kubectl(target.kubectl, target.kubeconfig, "default")

    def left() -> set[str]:
        return set(names) & set(kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split())

    try:
        wait_until("the end of all namespaces", lambda: not left(), timeout_s=GONE_TIMEOUT_S)
    except NotYetError:
        for name in left():  # told now: the cluster is taken down before anybody is asked for the reason
            print(Kubectl(target.kubectl, target.kubeconfig, name).describe_everything())
            print(kubectl("get", "namespace", name, "-o", "yaml"))
        raise


@pytest.fixture(scope="module")
def kubectl(target: Target, _ended: list[str], request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """A namespace of this module alone."""
    # Of this run alone: Consul remembers clusters by the names of their namespaces.
    name = f"e2e-{request.path.stem.removeprefix('test_').replace('_', '-')}-{secrets.token_hex(2)}"
    kubectl = Kubectl(target.kubectl, target.kubeconfig, name)
    told = request.config.stash.setdefault(_TOLD, [])
    told.append(kubectl)
    try:
        kubectl.create_namespace()
        yield kubectl
    finally:
        told.remove(kubectl)
        kubectl("delete", "namespace", name, "--wait=false")
        _ended.append(name)


@pytest.fixture(scope="session")
def idle_installation(target: Target, pytestconfig: pytest.Config) -> Iterator[Installation]:
    """LiteFS by Helm, whether it is installed or not."""
    kubectl = Kubectl(target.kubectl, target.kubeconfig, NAMESPACE)
    pytestconfig.stash.setdefault(_TOLD, []).append(kubectl)
    images_by_key = {
        "": target.operator_image,
        "sidecar": target.sidecar_image,
        "consul": target.consul_image,
        "tests": target.application_image,
    }
    one = Installation(kubectl=kubectl, kubeconfig=target.kubeconfig, helm=find_helm(), images=images_by_key)
    yield one
    if not target.is_own and one.is_there():
        one.uninstall()


@pytest.fixture(scope="module")
def installation(idle_installation: Installation, figures: Figures) -> Installation:
    """LiteFS, installed from the chart of the checkout."""
    if not idle_installation.is_there():
        start = time.monotonic()
        idle_installation.install()
        figures("helm install --wait, with a Consul", time.monotonic() - start)
    return idle_installation


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """What a test measured goes here."""
    return Figures(pytestconfig.stash.setdefault(_LINES, []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the figures."""
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what the cluster says to the report of a failure, before anything is taken down."""
    report = yield
    for kubectl in item.config.stash.get(_TOLD, []) if report.failed else []:
        report.sections.append((f"cluster, namespace {kubectl.namespace}", kubectl.describe_everything()))
    return report

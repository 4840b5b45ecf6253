"""Certificates of the webhook by cert-manager: its real controllers and CA injector, as a process of the host."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from e2e import workloads
from e2e.api_server import running_process
from e2e.commands import wait_until
from e2e.creations import Creations
from e2e.errors import CommandError
from e2e.figures import Figures
from e2e.installation import Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.tools import find_tools

BY_CERT_MANAGER: dict[str, Any] = {"certificates": {"mode": "certManager"}}
BY_ISSUER = {
    "certificates": {"mode": "certManager", "certManager": {"issuerRef": {"name": "named", "kind": "ClusterIssuer"}}}
}
CERTIFICATE = "litefs-webhook"
AUTHORITY = "litefs-webhook-ca"
REPLACES = "--features=CAInjectorMerging=false"
"""The injector puts a new CA in place of the one before, as it did before cert-manager 1.19. Newer ones add it."""


class CertManager:
    """The program, and what it works on."""

    def __init__(self, target: Target, kubectl: Kubectl, log: Path) -> None:
        """Args: kubectl: of the namespace of the certificates."""
        tools = find_tools()
        self.definitions = tools.cert_manager_crds
        self._command = [str(tools.cert_manager), f"--kubeconfig={target.kubeconfig}"]
        self._kubectl = kubectl
        self._log = log

    def running(self, *flags: str) -> AbstractContextManager[object]:
        """Runs it until the end of the block."""
        return running_process([*self._command, *flags], self._log)

    def renew(self, certificate: str) -> None:
        """Does what `cmctl renew` does, and returns when there is another certificate."""
        before_n = self.issued_n(certificate)
        conditions = self._kubectl.get("certificate", certificate)["status"]["conditions"]
        issuing = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by a test"}
        issuing["lastTransitionTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        others = [condition for condition in conditions if condition["type"] != "Issuing"]
        patch = json.dumps({"status": {"conditions": [*others, issuing]}})
        self._kubectl("patch", "certificate", certificate, "--subresource=status", "--type=merge", "--patch", patch)
        self.wait_issued(certificate, before_n)

    def wait_issued(self, certificate: str, before_n: int) -> None:
        """Returns when a certificate was issued once more than `before_n` times."""

        def is_issued() -> bool:
            return self.issued_n(certificate) > before_n

        wait_until(f"another certificate {certificate}", is_issued, timeout_s=READY_TIMEOUT_S)

    def issued_n(self, certificate: str) -> int:
        """Returns how often a certificate was issued."""
        return int(self._kubectl.get("certificate", certificate)["status"].get("revision", 0))


@pytest.fixture(scope="module")
def own_installation(target: Target, installation: Installation) -> Installation:
    """LiteFS by Helm on a cluster of our own, which has no cert-manager yet."""
    if not target.is_own:
        pytest.skip("would start a cert-manager beside the one that may be there")
    return installation


@pytest.fixture(scope="module")
def cert_manager(
    target: Target, own_installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CertManager]:
    """Definitions and program, which does not run yet; in the end neither is there, and Helm makes the certificate."""
    kubectl = own_installation.kubectl
    one = CertManager(target, kubectl, tmp_path_factory.mktemp("cert-manager") / "cert-manager.log")
    kubectl("apply", "--server-side", "-f", str(one.definitions))
    try:
        wait_for_definitions(kubectl, one.definitions)
        yield one
    finally:
        own_installation.install()  # Helm does not delete objects whose definitions are gone
        kubectl("delete", "-f", str(one.definitions))


def wait_for_definitions(kubectl: Kubectl, definitions: Path) -> None:
    """Returns when the API server serves them, and says so."""
    words = ["wait", "--for=condition=Established", "-f", str(definitions), f"--timeout={READY_TIMEOUT_S:.0f}s"]
    kubectl(*words, timeout_s=READY_TIMEOUT_S + 10)
    group = "cert-manager.io/v1"
    wait_until(group, lambda: group in kubectl("api-versions").split(), timeout_s=READY_TIMEOUT_S)


@pytest.fixture
def creations(kubectl: Kubectl, target: Target, own_installation: Installation) -> Iterator[Creations]:
    """Pods that are created during a test."""
    kubectl.apply(workloads.cluster(data={"allowEphemeral": True}), workloads.script())
    creations = Creations(kubectl, target.application_image)
    with creations.going_on():
        yield creations


def test_without_cert_manager_the_chart_says_what_to_do(own_installation: Installation) -> None:
    with pytest.raises(CommandError, match="there is no cert-manager: install it first, or take another mode"):
        own_installation.install(webhook=BY_CERT_MANAGER)


def test_cert_manager_takes_over_from_helm_and_no_pod_is_refused(
    own_installation: Installation, cert_manager: CertManager, creations: Creations, figures: Figures
) -> None:
    issuer = {"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "named"}}
    own_installation.kubectl.apply({**issuer, "spec": {"selfSigned": {}}})
    with cert_manager.running():
        change(own_installation, BY_ISSUER)
        creations.wait_enough()
    tell(figures, "certificate by an issuer of cert-manager in place of Helm", creations)


def test_another_issuer_takes_over_and_no_pod_is_refused(
    own_installation: Installation, cert_manager: CertManager, creations: Creations, figures: Figures
) -> None:
    loaded_n, issued_n = own_installation.certificates(), cert_manager.issued_n(CERTIFICATE)
    with cert_manager.running():
        own_installation.install(webhook=BY_CERT_MANAGER)
        cert_manager.wait_issued(CERTIFICATE, issued_n)
        own_installation.wait_certificates(loaded_n)
        creations.wait_enough()
    tell(figures, "certificate by a CA of the release in place of the issuer", creations)


def test_a_renewal_refuses_no_pod_though_the_ca_before_is_forgotten(
    own_installation: Installation, cert_manager: CertManager, creations: Creations, figures: Figures
) -> None:
    loaded_n = own_installation.certificates()
    with cert_manager.running(REPLACES):
        cert_manager.renew(AUTHORITY)
        cert_manager.renew(CERTIFICATE)
        creations.wait_enough()  # with the certificate before, until the kubelet brings the new one
        own_installation.wait_certificates(loaded_n)
    tell(figures, "CA and certificate renewed by cert-manager", creations)


def test_helm_takes_over_from_cert_manager_and_no_pod_is_refused(
    own_installation: Installation, cert_manager: CertManager, creations: Creations, figures: Figures
) -> None:
    with cert_manager.running():
        change(own_installation, {})
        creations.wait_enough()
    tell(figures, "certificate by Helm in place of cert-manager", creations)


def change(installation: Installation, webhook: dict[str, Any]) -> None:
    """Changes the mode, and returns when no pod of the operator has the certificate of the mode before."""
    before = installation.operators()
    installation.install(webhook=webhook)
    # Helm waits for the new ones, not for the end of the old ones.
    ended = "the end of the old operator's pods"
    wait_until(ended, lambda: not before & installation.operators(), timeout_s=READY_TIMEOUT_S)


def tell(figures: Figures, what: str, creations: Creations) -> None:
    figures.note(f"{what}: {len(creations.refusals)} of {creations.done_n} pods refused")
    assert creations.refusals == []

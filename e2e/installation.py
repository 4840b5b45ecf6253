"""LiteFS on the cluster, as people install it: the chart by Helm, or the manifests by kubectl.

The chart gets no values but the names of images. What a test takes away, the next one that needs it has brought back:
so each module can be run alone, and in any order.
"""

import json
import time
from pathlib import Path
from typing import Any

from charts import generated
from e2e.commands import run, wait_until
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.tools import REPOSITORY

NAMESPACE = "litefs-system"
RELEASE = "litefs"
OPERATOR = "litefs-operator"
OPERATORS = "app.kubernetes.io/component=operator"
"""Its pods."""
CONSUL = "litefs-consul"
CHART = REPOSITORY / "charts" / "litefs"

_INSTALL_TIMEOUT_S = 180.0


class Installation:
    """The one release of the chart on a cluster.

    Attributes:
        kubectl: for the namespace that it is installed in.
    """

    def __init__(self, *, kubectl: Kubectl, kubeconfig: Path, helm: Path, images: dict[str, str]) -> None:
        """Args: images: names by the key in the chart's values above `image`; "" for that of the operator."""
        self.kubectl = kubectl
        self._helm: list[str | Path] = [helm, "--kubeconfig", kubeconfig, "--namespace", kubectl.namespace]
        self._images = images

    def is_there(self) -> bool:
        """Whether it is installed by Helm, and came up."""
        found = json.loads(self.helm("list", "--all", "--output", "json"))
        return any(release["name"] == RELEASE and release["status"] == "deployed" for release in found)

    def install(self, **values: Any) -> None:
        """Installs the chart, or changes the values of an installation; returns when its pods are ready."""
        words: list[str | Path] = [
            "upgrade",
            RELEASE,
            CHART,
            "--install",
            "--create-namespace",
            "--wait",
            "--values",
            "-",
        ]
        self.helm(*words, f"--timeout={_INSTALL_TIMEOUT_S:.0f}s", stdin=json.dumps(self._image_values() | values))

    def render(self, release: str, namespace: str, *words: str) -> str:
        """Returns manifests of the chart for another release. Args: words: more of `helm template`."""
        values = ["--kube-version", generated.KUBERNETES, "--values", "-", *words]
        return self.helm(
            "template", release, CHART, "--namespace", namespace, *values, stdin=json.dumps(self._image_values())
        )

    def uninstall(self) -> None:
        """Uninstalls the release, and returns when its pods are gone."""
        self.helm("uninstall", RELEASE, "--wait", f"--timeout={_INSTALL_TIMEOUT_S:.0f}s")

    def wait_operator(self) -> None:
        """Returns when the operator runs as its Deployment says."""
        words = ["rollout", "status", f"deployment/{OPERATOR}", f"--timeout={_INSTALL_TIMEOUT_S:.0f}s"]
        self.kubectl(*words, timeout_s=_INSTALL_TIMEOUT_S + 10)

    def operators(self, field: str = "name") -> set[str]:
        """Returns a field of the metadata of each pod of the operator."""
        path = f"jsonpath={{.items[*].metadata.{field}}}"
        return set(self.kubectl("get", "pods", "--selector", OPERATORS, "-o", path).split())

    def certificates(self) -> dict[str, int]:
        """Returns how many certificates each pod of the operator has loaded from its Secret so far."""
        return {pod: self.kubectl.log(pod, "operator").count("certificate loaded") for pod in self.operators()}

    def wait_certificates(self, before: dict[str, int]) -> None:
        """Returns when all have loaded one more than there were `before`."""
        # Whatever changes in a pod has the kubelet look at its Secrets now, and not within a minute.
        changed = f"e2e/rotated={time.monotonic()}"
        self.kubectl("annotate", "pods", "--selector", OPERATORS, changed, "--overwrite")

        def have_loaded() -> bool:
            # One that ended meanwhile is not among them.
            return all(loaded_n > before.get(pod, 0) for pod, loaded_n in self.certificates().items())

        wait_until("all operators with the new certificate", have_loaded, timeout_s=READY_TIMEOUT_S)

    def helm(self, *words: str | Path, stdin: str = "") -> str:
        """Returns what Helm printed.

        Raises:
            CommandError: it failed.
        """
        return run([*self._helm, *words], stdin=stdin, timeout_s=_INSTALL_TIMEOUT_S + 10)

    def _image_values(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, name in self._images.items():
            repository, _, tag = name.rpartition(":")
            image = {"image": {"repository": repository, "tag": tag}}
            values |= {key: image} if key else image
        return values

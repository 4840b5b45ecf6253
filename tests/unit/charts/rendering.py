"""The chart as Helm renders it."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from charts.generated import CHART

Manifest = dict[str, Any]

OLDEST, NEWEST = "1.29.0", "1.37.0"
MONITORING = "monitoring.coreos.com/v1"
NAMESPACE = "somewhere"
CA_BUNDLE = "LS0tLS1CRUdJTi0tLS0t"

MODES: dict[str, Manifest] = {
    "defaults": {},
    "certificates of the operator": {"webhook": {"certificates": {"mode": "operator"}}},
    "certificates of cert-manager": {"webhook": {"certificates": {"mode": "certManager"}}},
    "certificates of an issuer": {
        "webhook": {
            "certificates": {
                "mode": "certManager",
                "certManager": {"issuerRef": {"name": "corporate", "kind": "ClusterIssuer"}},
            }
        }
    },
    "certificates that exist": {
        "webhook": {
            "certificates": {"mode": "existing", "existing": {"secretName": "mine", "caBundle": CA_BUNDLE}},
        }
    },
    "three servers of Consul": {"consul": {"replicas": 3, "storage": {"storageClassName": "quick"}}},
    "Consul without claims": {"consul": {"storage": {"persistent": False}}},
    "external Consul": {
        "consul": {
            "mode": "external",
            "url": "https://consul.example:8501",
            "tokenSecret": {"name": "consul-token"},
            "caSecret": {"name": "consul-ca"},
        }
    },
    "no Consul": {"consul": {"mode": "none"}},
    "two namespaces": {"watchNamespaces": ["blue", "green"]},
    "everything watched": {
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "podMonitor": {"enabled": True, "clusters": [{"namespace": "web", "name": "blog"}]},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        }
    },
    "one plain replica": {
        "operator": {
            "replicas": 1,
            "debug": True,
            "logFormat": "json",
            "podAnnotations": {"a": "b"},
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
        },
        "image": {"digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
        "networkPolicy": {"enabled": False},
        "crds": {"install": False},
        "webhook": {"requireSidecar": False},
        "fullnameOverride": "replicated",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The chart, and the Helm that renders it. What was rendered before is kept: tests only read it."""

    helm: Path
    rendered: dict[str, str] = field(default_factory=dict)

    def render(
        self, values: Manifest, *, kubernetes: str = NEWEST, apis: tuple[str, ...] = (MONITORING,), release: str = "r"
    ) -> list[Manifest]:
        """Returns the manifests.

        Raises:
            AssertionError: Helm refuses, in the words of the message.
        """
        words = ["template", release, str(CHART), "--namespace", NAMESPACE, "--kube-version", kubernetes]
        for api in apis:
            words += ["--api-versions", api]
        key = json.dumps([words, values])
        if key not in self.rendered:
            self.rendered[key] = self._helm([*words, "--values", "-"], json.dumps(values))
        return [manifest for manifest in yaml.load_all(self.rendered[key], yaml.CSafeLoader) if manifest]

    def _helm(self, words: list[str], stdin: str) -> str:
        command: list[str | Path] = [self.helm, *words]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def of_kind(manifests: list[Manifest], kind: str, suffix: str = "") -> Manifest:
    """Returns the one object of a kind whose name ends so."""
    found = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, [one["metadata"]["name"] for one in found]
    return found[0]


def pod_templates(manifests: list[Manifest]) -> list[Manifest]:
    """Returns what pods are made of: metadata and spec."""
    return [
        one["spec"]["template"] if one["kind"] != "Pod" else one
        for one in manifests
        if one["kind"] in {"Pod", "Deployment", "StatefulSet"}
    ]

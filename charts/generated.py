"""Writes what is generated from the chart: its README, and the manifests for those who have no Helm.

    python -m charts.generated HELM     writes charts/litefs/README.md and manifests/install.yaml

Strategy: values.yaml is the one place where a value is described, by the comment above it; only values that have no
others below them have one.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHART = Path(__file__).parent / "litefs"
README = CHART / "README.md"
INSTALL = Path(__file__).parents[1] / "manifests" / "install.yaml"

NAMESPACE = "litefs-system"
KUBERNETES = "1.34.0"
"""The Kubernetes that install.yaml is rendered for."""

_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9]+):(?: (?P<default>.+))?")
_OF_HELM = re.compile(r"^ +(app\.kubernetes\.io/managed-by: Helm|helm\.sh/chart: .*)\n", re.MULTILINE)
_INDENT = 2

_README = """\
# LiteFS

Replicates SQLite databases between pods through a FUSE mount: an operator, a webhook that puts the sidecar into
annotated pods, and a Consul that keeps the leases. How to use it: [docs/kubernetes.md](../../docs/kubernetes.md).

    helm install litefs charts/litefs --namespace litefs-system --create-namespace --wait \\
      --set image.repository=registry.example/litefs-operator --set sidecar.image.repository=registry.example/litefs

No registry has these two images yet: `make images` builds them from a checkout. Kubernetes 1.29 or newer; from 1.30 on,
annotated pods are refused when the webhook is gone, too.

## Values

| value | default | |
| --- | --- | --- |
{rows}

Unknown values are refused, and so are those that contradict each other.

This file is generated from values.yaml by `make manifests`.
"""
_INSTALL_HEAD = """\
# Generated from charts/litefs by `make manifests`: the chart with webhook.certificates.mode=operator.
apiVersion: v1
kind: Namespace
metadata:
  name: {namespace}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of the chart.

    Attributes:
        path: its keys, joined by dots.
        default: as values.yaml has it.
        description: the comment above it, in one line; "" if there is none.
    """

    path: str
    default: str
    description: str


def values() -> Iterator[Value]:
    """Yields the values that have no others below them, in the order of values.yaml."""
    keys: list[str] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip("# "))
            continue
        match = _KEY.fullmatch(line)
        if match:
            keys[len(match["indent"]) // _INDENT :] = [match["key"]]
            if match["default"]:
                yield Value(path=".".join(keys), default=match["default"], description=" ".join(comment))
        comment.clear()


def readme() -> str:
    """Returns the text of the chart's README."""
    rows = [f"| `{value.path}` | `{value.default}` | {value.description} |" for value in values()]
    return _README.format(rows="\n".join(rows))


def install_yaml(helm: Path) -> str:
    """Returns the manifests of an installation without Helm."""
    settings = ["--namespace", NAMESPACE, "--kube-version", KUBERNETES, "--set", "webhook.certificates.mode=operator"]
    command: list[str | Path] = [helm, "template", "litefs", CHART, "--skip-tests", *settings]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return _INSTALL_HEAD.format(namespace=NAMESPACE) + _OF_HELM.sub("", rendered)


def main() -> None:
    """Writes both."""
    README.write_text(readme())
    INSTALL.write_text(install_yaml(Path(sys.argv[1])))


if __name__ == "__main__":
    main()

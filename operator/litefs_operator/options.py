"""What the operator is told at its start: flags and environment, as one record."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class LogStyle(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """How the API server reaches the webhook.

    Attributes:
        port: for HTTPS.
        tls_dir: has tls.crt and tls.key; None where the operator manages the certificate.
        certificate_secret: where it keeps that, in its own namespace.
        configuration: the MutatingWebhookConfiguration whose caBundle it writes then.
        service: the Service in front of the operator; the certificate is for its name.
    """

    port: int
    tls_dir: Path | None
    certificate_secret: str
    configuration: str
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `litefs-operator run` was told.

    Attributes:
        sidecar_image: where neither pod nor LiteFSCluster names one.
        consul_url: of the installation's Consul; "" if it has none.
        namespaces: to watch; empty for all.
        webhook: see there.
        key_secret: the Secret with the key from which the clusters' tokens are made.
        lease: the coordination.k8s.io Lease of the replica that acts.
        health_port: for /healthz, /readyz and /metrics.
        log_style: see there.
        debug: write debug lines too.
        pod_name: this replica.
        pod_namespace: where the operator keeps its own objects.
        consul_token: for the installation's Consul; "" for none.
        consul_ca: file of the CA that signed its certificate; "" for those of the system.
    """

    sidecar_image: str
    consul_url: str
    namespaces: tuple[str, ...]
    webhook: WebhookOptions
    key_secret: str
    lease: str
    health_port: int
    log_style: LogStyle
    debug: bool
    pod_name: str
    pod_namespace: str
    consul_token: str
    consul_ca: str


def missing_variables(environment: Mapping[str, str]) -> list[str]:
    """Returns the variables that a pod must be given and that are not set."""
    return [name for name in ("POD_NAME", "POD_NAMESPACE") if not environment.get(name)]

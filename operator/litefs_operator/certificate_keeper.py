"""Keeps the webhook's certificate where the operator manages it: Secret, files of the server, caBundle.

    1. the bundle in the Secret, old CA included      both replicas read it
    2. caBundle of the webhook's configuration        the API server trusts old and new
    3. the files, a while later                       the server takes the new certificate

Strategy: each replica does the same every half minute, and whoever comes first is right: a Secret is created once, or
replaced as it was read. A server changes to a new certificate only when caBundle had it for long enough that every API
server knows. At the start there is no certificate before, and nothing to wait for.
"""

import asyncio
import base64
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from litefs_operator import names
from litefs_operator.certificate import Bundle, make_bundle, needs_renewal, read_bundle
from litefs_operator.errors import CertificateError, ConflictError, KubeError, KubeUnavailableError, NotFoundError
from litefs_operator.kube import KubeApi, Manifest, object_path
from litefs_operator.options import WebhookOptions

LOOK_S = 30.0
RETRY_S = 2.0
"""While the server has no certificate yet."""

SPREAD_S = 60.0
"""From a written caBundle to its use by every API server: they watch their configuration, and take a second."""

_log = logging.getLogger("litefs_operator.certificate")


class CertificateKeeper:
    """One replica's side of it. For one event loop."""

    def __init__(self, kube: KubeApi, options: WebhookOptions, namespace: str, directory: Path) -> None:
        """Args: namespace: of the operator; directory: gets tls.crt and tls.key."""
        self._kube = kube
        self._options = options
        self._namespace = namespace
        self._directory = directory
        self._host = f"{options.service}.{namespace}.svc"
        self._used = b""
        self._trusted_since: tuple[bytes, datetime] = (b"", datetime.min.replace(tzinfo=UTC))

    async def run(self) -> None:
        """Keeps it, until it is cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.step, datetime.now(UTC))
            except (KubeError, KubeUnavailableError, CertificateError) as error:
                _log.error("the webhook's certificate: %s", error)
            await asyncio.sleep(LOOK_S if self._used else RETRY_S)

    def step(self, now: datetime) -> None:
        """Does what is due. Blocks.

        Raises:
            CertificateError: the Secret has something else in it; delete it.
            KubeError: a request was refused.
            KubeUnavailableError: there is no answer.
        """
        bundle = self._bundle(now)
        self._trust(bundle)
        trusted, since = self._trusted_since
        if trusted != bundle.certificate:
            self._trusted_since = (bundle.certificate, now)
            since = now
        if not self._used or (self._used != bundle.certificate and now - since >= timedelta(seconds=SPREAD_S)):
            self._write_files(bundle)
            self._used = bundle.certificate

    def _bundle(self, now: datetime) -> Bundle:
        """Returns the bundle of the Secret, after making or renewing it."""
        collection = object_path("v1", "secrets", self._namespace)
        path = f"{collection}/{self._options.certificate_secret}"
        try:
            secret = self._kube.get(path)
        except NotFoundError:
            return self._create(collection, path, now)
        bundle = read_bundle(secret.get("data") or {})
        if not needs_renewal(bundle, self._host, now):
            return bundle
        renewed = make_bundle(self._host, now, before=bundle)
        try:
            self._kube.replace(path, {**secret, "data": {**(secret.get("data") or {}), **renewed.data()}})
        except ConflictError:  # the other replica was quicker
            return read_bundle(self._kube.get(path).get("data") or {})
        _log.info("the webhook's certificate was renewed")
        return renewed

    def _create(self, collection: str, path: str, now: datetime) -> Bundle:
        made = make_bundle(self._host, now)
        manifest: Manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self._options.certificate_secret,
                "namespace": self._namespace,
                "labels": {names.MANAGED_BY: names.OPERATOR},
            },
            "type": "kubernetes.io/tls",
            "data": made.data(),
        }
        try:
            self._kube.create(collection, manifest)
        except ConflictError:  # the other replica was quicker
            return read_bundle(self._kube.get(path).get("data") or {})
        _log.info("the webhook's certificate was made")
        return made

    def _trust(self, bundle: Bundle) -> None:
        """Writes the bundle's authorities into every webhook of the configuration, where they are not yet."""
        path = object_path(
            "admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", name=self._options.configuration
        )
        configuration = self._kube.get(path)
        wanted = base64.b64encode(bundle.authorities).decode()
        webhooks = configuration.get("webhooks") or []
        if all(webhook["clientConfig"].get("caBundle") == wanted for webhook in webhooks):
            return
        changed = [{**webhook, "clientConfig": {**webhook["clientConfig"], "caBundle": wanted}} for webhook in webhooks]
        # The version makes it a question: a list is replaced as a whole, and must not undo what somebody else changed.
        version = configuration["metadata"]["resourceVersion"]
        try:
            self._kube.patch(path, {"metadata": {"resourceVersion": version}, "webhooks": changed})
        except ConflictError:
            _log.info("%s was changed meanwhile", self._options.configuration)
            self._trust(bundle)

    def _write_files(self, bundle: Bundle) -> None:
        for name, content in (("tls.key", bundle.key), ("tls.crt", bundle.certificate)):
            temporary = self._directory / f".{name}"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(self._directory / name)
        ends = x509.load_pem_x509_certificate(bundle.certificate).not_valid_after_utc
        _log.info("the certificate for %s, valid until %s, is in use", self._host, ends.date())

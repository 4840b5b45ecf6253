"""The HTTPS server of the webhook, in place of kopf's own, which drops a request at each restart and rotation.

Strategy: the API server keeps connections open, and refuses the pod when one is closed under a request of it. So
while the operator ends, each answer asks for the connection to be closed, and the port is closed only when those that
were open had the time to see one. A new certificate is loaded into the same context: connections go on with the old.

Source: kopf 1.45, WebhookServerProtocol; Kubernetes, admission.k8s.io/v1 AdmissionReview.
"""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import kopf
from aiohttp import web

from litefs_operator.metrics import Metrics

BODY_BYTES_MAX = 8 << 20
"""A pod is at most 1.5 MiB, as etcd has it; the API server sends it with what it was before, and in JSON."""

RELOAD_S = 5.0
"""How soon a changed certificate is seen; a Secret takes up to a minute to reach the pod's files."""

DRAIN_S = 4.0
"""From the order to end to the closed port: endpoints are updated within a second, then answers close connections.
No request was refused in five restarts under load with as much (premortem of November 2026)."""

_log = logging.getLogger("litefs_operator.webhook")


class WebhookServer:
    """Serves `POST /ID` for the handler called ID; kopf calls the object with the function that runs handlers."""

    def __init__(self, port: int, certificate_dir: Path, metrics: Metrics) -> None:
        """Args: certificate_dir: has, or will have, tls.crt and tls.key."""
        self._port = port
        self.is_serving = False
        self._is_draining = False
        self._files = CertificateFiles(certificate_dir)
        self._metrics = metrics

    def drain(self) -> None:
        """Closes each connection with its next answer, from now on."""
        self._is_draining = True

    async def __call__(self, review: kopf.WebhookFn) -> AsyncIterator[kopf.WebhookClientConfig]:
        """Serves until it is cancelled."""
        while not self._files.load():  # noqa: ASYNC110 - files cannot be waited for
            await asyncio.sleep(RELOAD_S / 10)
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.add_routes([web.post("/{handler}", self._endpoint(review))])
        runner = web.AppRunner(application, handle_signals=False, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=self._port, ssl_context=self._files.context).start()
            self.is_serving = True
            _log.info("the webhook is served on port %d", self._port)
            yield kopf.WebhookClientConfig(url=f"https://localhost:{self._port}")  # kopf writes it nowhere
            while True:
                await asyncio.sleep(RELOAD_S)
                self._files.load()
        finally:
            self.is_serving = False
            await runner.cleanup()

    def _endpoint(self, review: kopf.WebhookFn) -> Callable[[web.Request], Any]:
        async def answer(request: web.Request) -> web.Response:
            begun = time.monotonic()
            body = _review_of(await request.read())
            given = await review(
                body,
                headers=dict(request.headers),
                sslpeer={},
                webhook=kopf.HandlerId(request.match_info["handler"]),
            )
            response = web.json_response(given)
            if self._is_draining:
                response.force_close()
            self._metrics.webhook_seconds.observe(time.monotonic() - begun)
            return response

        return answer


class CertificateFiles:
    """The context of the TLS server, and the files that its certificate comes from."""

    def __init__(self, directory: Path) -> None:
        """Args: directory: of tls.crt and tls.key."""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._paths = (directory / "tls.crt", directory / "tls.key")
        self._loaded = (b"", b"")

    def load(self) -> bool:
        """Loads the certificate if it is another one. Returns whether there is any.

        A pair that does not fit together, as it is while the files change one by one, leaves the one before in use.
        """
        try:
            found = (self._paths[0].read_bytes(), self._paths[1].read_bytes())
            if found != self._loaded:
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*self._paths)
                self.context.load_cert_chain(*self._paths)
                _log.info("certificate loaded from %s", self._paths[0])
                self._loaded = found
        except (OSError, ssl.SSLError) as error:
            _log.warning("the certificate in %s cannot be loaded: %s", self._paths[0].parent, error)
        return self._loaded != (b"", b"")


def _review_of(body: bytes) -> Any:
    """Reads an AdmissionReview of pods.

    Raises:
        web.HTTPException: it is none, with the status that kopf's own server would answer.
    """
    try:
        review = json.loads(body)
        request = review["request"]
        resource = request["resource"]
        kind = (resource["group"], resource["version"], resource["resource"])
        is_complete = all(isinstance(request.get(field), Mapping) for field in ("object", "userInfo"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise web.HTTPBadRequest(text=f"expected an AdmissionReview: {error}") from error
    if kind != ("", "v1", "pods"):
        raise web.HTTPNotFound(text=f"this webhook is for pods, not for {'/'.join(kind)}")
    if not is_complete:
        raise web.HTTPBadRequest(text="expected an AdmissionReview with object and userInfo")
    # kopf takes the namespace from the pod, which need not say it.
    request["object"].setdefault("metadata", {}).setdefault("namespace", request.get("namespace", ""))
    return review

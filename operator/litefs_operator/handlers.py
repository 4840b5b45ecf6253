"""What kopf calls: the webhook's handler, in a few lines.

Strategy: kopf watches nothing, so it puts no finalizer and no annotation on anything. What there is, both replicas know
by watches of their own (`known.py`), and whoever acts does it elsewhere, by the Kubernetes Lease.
"""

import logging
from typing import Any

import kopf

from litefs_operator.admission import Admission, PodReview
from litefs_operator.errors import RefusedError
from litefs_operator.webhook_server import WebhookServer

INJECT = "inject"
"""Id of the handler, and path of the webhook."""

REFUSED_STATUS = 403

_log = logging.getLogger("litefs_operator.admission")


class Handlers:
    """What kopf calls, bound to the parts that do the work."""

    def __init__(self, admission: Admission, server: WebhookServer) -> None:
        self._admission = admission
        self._server = server

    def registry(self) -> kopf.OperatorRegistry:
        """Returns the handlers for kopf."""
        registry = kopf.OperatorRegistry()
        kopf.on.startup(registry=registry)(self.start)
        kopf.on.login(registry=registry)(kopf.login_via_client)
        kopf.on.mutate("", "v1", "pods", id=INJECT, operations=["CREATE"], registry=registry)(self.inject)
        return registry

    def start(self, settings: kopf.OperatorSettings, **_: Any) -> None:
        """Configures kopf."""
        settings.admission.server = self._server
        settings.admission.managed = None  # the chart owns the configuration: kopf cannot write its matchConditions
        settings.posting.enabled = False
        settings.scanning.disabled = True  # there are always pods: kopf need not watch which kinds come and go

    async def inject(
        self, body: kopf.Body, namespace: str | None, patch: kopf.Patch, warnings: list[str], dryrun: bool, **_: Any
    ) -> None:
        """Puts the sidecar into a pod, or refuses it."""
        try:
            injected = await self._admission.decide(
                PodReview(pod=dict(body), namespace=namespace or "", is_dry_run=dryrun)
            )
        except RefusedError as refused:
            raise kopf.AdmissionError(str(refused), code=REFUSED_STATUS) from refused
        except Exception as error:
            _log.exception("a pod in %s could not be looked at", namespace)
            raise kopf.AdmissionError(f"the operator failed: {error!r}; its log says more") from error
        if injected is None:
            return
        warnings.extend(injected.warnings)
        patch.meta.labels.update(injected.pod["metadata"]["labels"])
        patch.meta.annotations.update(injected.pod["metadata"]["annotations"])
        for field in ("initContainers", "containers", "volumes"):
            patch.spec[field] = injected.pod["spec"][field]


class ReportedElsewhere(logging.Filter):
    """Drops what kopf says of each call of a handler that went well, and of refusals: `admission` reports those."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the line is written."""
        return record.levelno >= logging.WARNING and not record.getMessage().startswith(f"Webhook '{INJECT}'")

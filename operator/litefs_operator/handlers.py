"""The handlers that kopf calls: a few lines each, and none that writes to what it watches.

Strategy: only indexes and `on.event`, so that kopf puts no finalizer and no annotation on anything, and both replicas
watch all the time. Whoever acts does it elsewhere, by the Kubernetes Lease.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from litefs_operator import names
from litefs_operator.admission import Admission, PodReview
from litefs_operator.errors import RefusedError
from litefs_operator.known import ClusterKey, Known, Manifest, kept_of
from litefs_operator.webhook_server import WebhookServer

INJECT = "inject"
"""Id of the handler, and path of the webhook."""

REFUSED_STATUS = 403

WATCH_SERVER_S = 60
WATCH_INACTIVE_S = 75.0
"""A watch is asked for anew each minute (the API server takes whole seconds), and given up when silent for longer."""

_log = logging.getLogger("litefs_operator.admission")


class Handlers:
    """What kopf calls, bound to the parts that do the work."""

    def __init__(
        self, admission: Admission, known: Known, server: WebhookServer, changed: Callable[[ClusterKey], None]
    ) -> None:
        """Args: changed: is told of every LiteFSCluster that came, changed or went."""
        self._admission = admission
        self._known = known
        self._server = server
        self._changed = changed

    def registry(self, *, with_namespaces: bool) -> kopf.OperatorRegistry:
        """Returns the handlers for kopf.

        Args:
            with_namespaces: the operator may watch them.
        """
        registry = kopf.OperatorRegistry()
        kopf.on.startup(registry=registry)(self.start)
        kopf.on.login(registry=registry)(kopf.login_via_client)
        kopf.index(names.GROUP, names.VERSION, names.PLURAL, id="clusters", registry=registry)(self.index_cluster)
        kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)(self.cluster_event)
        kopf.on.mutate("", "v1", "pods", id=INJECT, operations=["CREATE"], registry=registry)(self.inject)
        if with_namespaces:
            kopf.index("", "v1", "namespaces", id="namespaces", registry=registry)(self.index_namespace)
        return registry

    def start(self, settings: kopf.OperatorSettings, **indexes: Any) -> None:
        """Configures kopf, and takes its indexes."""
        settings.admission.server = self._server
        settings.admission.managed = None  # the chart owns the configuration: kopf cannot write its matchConditions
        settings.posting.enabled = False
        settings.watching.server_timeout = WATCH_SERVER_S
        settings.watching.inactivity_timeout = WATCH_INACTIVE_S
        # kopf would otherwise list all namespaces for a minute, although it has no right to, before it serves its own.
        settings.scanning.disabled = "namespaces" not in indexes
        self._known.bind(indexes["clusters"], indexes.get("namespaces"))

    def index_cluster(self, body: kopf.Body, **_: Any) -> dict[ClusterKey, Manifest]:
        """Keeps a LiteFSCluster."""
        manifest = kept_of(body)
        return {(manifest["metadata"]["namespace"], manifest["metadata"]["name"]): manifest}

    def index_namespace(self, name: str, labels: Mapping[str, str], **_: Any) -> dict[str, Mapping[str, str]]:
        """Keeps the labels of a namespace."""
        return {name: dict(labels)}

    async def cluster_event(self, namespace: str | None, name: str, **_: Any) -> None:
        """Tells that a LiteFSCluster changed; the index has it by now."""
        self._changed((namespace or "", name))

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

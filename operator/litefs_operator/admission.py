"""Whether a pod gets a sidecar, and from which LiteFSCluster: what the webhook decides.

Strategy: the decision itself is `injection.inject`. Here is what it needs to know, from the watches; on a miss the API
server is asked before the pod is refused, because a cluster and its pods come with one `kubectl apply`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from litefs_operator import names
from litefs_operator.builders.sidecar_config import lease_place
from litefs_operator.crd import ClusterSpec
from litefs_operator.errors import KubeError, KubeUnavailableError, NotFoundError, RefusedError, SpecError
from litefs_operator.injection import Cluster, Injected, Installation, inject
from litefs_operator.injection_status import InjectionStatus
from litefs_operator.known import ClusterKey, Known, cluster_key, kept_of
from litefs_operator.kube import KubeApi, Manifest, object_path
from litefs_operator.metrics import Metrics
from litefs_operator.pod_request import cluster_name, controller_of, wants_sidecar
from litefs_operator.schema import parse

_log = logging.getLogger("litefs_operator.admission")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodReview:
    """What the API server asks.

    Attributes:
        pod: as it would be created.
        namespace: that it is created in; the pod itself may not say.
        is_dry_run: nothing may be left of the request.
    """

    pod: Mapping[str, Any]
    namespace: str
    is_dry_run: bool


class Admission:
    """Decides about pods. For one event loop."""

    def __init__(
        self,
        kube: KubeApi,
        known: Known,
        leases: Callable[[ClusterKey, str], Mapping[str, str]],
        installation: Installation,
        status: InjectionStatus,
        metrics: Metrics,
        *,
        reads_namespaces: bool,
    ) -> None:
        """Keeps what it asks.

        Args:
            leases: tells where each pod keeps its lease that one of a cluster and controller must agree with, by name.
            reads_namespaces: the operator may; otherwise Pod Security of a namespace is not looked at.
        """
        self._kube = kube
        self._known = known
        self._leases = leases
        self._installation = installation
        self._status = status
        self._metrics = metrics
        self._reads_namespaces = reads_namespaces

    async def decide(self, review: PodReview) -> Injected | None:
        """Returns the pod with its sidecar; None if it asks for none.

        Raises:
            RefusedError: says what to change.
        """
        manifest: Manifest | None = None
        try:
            annotations: Mapping[str, str] = review.pod["metadata"].get("annotations") or {}
            if not wants_sidecar(annotations):
                return None
            manifest = await self._cluster(review.namespace, cluster_name(annotations))
            labels = await self._namespace_labels(review.namespace)
            injected = inject(review.pod, _cluster_of(manifest, labels), self._installation)
            _check_lease(injected, self._leases(cluster_key(manifest), controller_of(review.pod)))
        except RefusedError as refused:
            self._metrics.refusals.labels(refused.reason).inc()
            if not review.is_dry_run:
                _log.warning("refused a pod in %s: %s", review.namespace, refused)
                if manifest is not None:
                    self._status.refused(manifest, refused)
            raise
        self._metrics.injections.inc()
        if not review.is_dry_run:
            self._status.admitted(manifest)
        return injected

    async def _cluster(self, namespace: str, name: str) -> Manifest:
        found = self._known.cluster((namespace, name))
        if found is not None:
            return found
        path = object_path(f"{names.GROUP}/{names.VERSION}", names.PLURAL, namespace, name)
        try:
            return kept_of(await self._ask(path))
        except NotFoundError as error:
            raise RefusedError(
                "ClusterNotFound",
                f'there is no LiteFSCluster "{name}" in the namespace {namespace}: create it, or correct the '
                f"annotation {names.CLUSTER}",
            ) from error

    async def _namespace_labels(self, namespace: str) -> Mapping[str, str]:
        if not self._reads_namespaces:
            return {}
        labels = self._known.namespace_labels(namespace)
        if labels is None:
            manifest = await self._ask(object_path("v1", "namespaces", name=namespace))
            labels = manifest["metadata"].get("labels") or {}
        return labels

    async def _ask(self, path: str) -> Manifest:
        """Asks the API server.

        Raises:
            NotFoundError: there is no such object.
            RefusedError: the operator does not get an answer.
        """
        try:
            try:
                return await asyncio.to_thread(self._kube.get, path)
            except KubeUnavailableError:  # a connection that the API server closed a moment ago
                return await asyncio.to_thread(self._kube.get, path)
        except NotFoundError:
            raise
        except (KubeError, KubeUnavailableError) as error:
            raise RefusedError("NotReadable", f"the operator cannot read {path}: {error}") from error


def _check_lease(injected: Injected, others: Mapping[str, str]) -> None:
    """Refuses a pod that would look for the primary elsewhere than those that run: it would become a second one."""
    here = lease_place(injected.pod["metadata"]["annotations"][names.CONFIG])
    for name, there in others.items():
        if there not in ("", here):
            raise RefusedError(
                "LeaseElsewhere",
                f"the lease of the pod {name} is at {there}, and that of this one would be at {here}, so there would "
                "be two primaries: let all pods end before the first one starts again (kubectl scale --replicas=0), or "
                "undo the change",
            )


def _cluster_of(manifest: Manifest, namespace_labels: Mapping[str, str]) -> Cluster:
    metadata = manifest["metadata"]
    try:
        spec = parse(ClusterSpec, manifest["spec"])
    except SpecError as error:
        raise RefusedError("SpecNotReadable", f"the LiteFSCluster {metadata['name']}: {error}") from error
    return Cluster(name=metadata["name"], namespace=metadata["namespace"], spec=spec, namespace_labels=namespace_labels)

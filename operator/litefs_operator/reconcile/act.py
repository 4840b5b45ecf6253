"""Does what was decided, request by request. Blocks: it runs in a thread.

Strategy: what new connections wait for comes first. A request that the API server refuses does not keep the others
from being made; all is tried again later, from what is there then.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from litefs_operator import names
from litefs_operator.builders.services import NODE, ROLE
from litefs_operator.errors import ConflictError, KubeError, NamespaceEndingError, NotFoundError
from litefs_operator.known import ClusterKey, cluster_key, status_of
from litefs_operator.kube import KubeApi, Manifest, object_path
from litefs_operator.metrics import Metrics
from litefs_operator.reconcile.decide import Decision
from litefs_operator.tokens import cluster_token, token_manifest

OWNER = "litefs-operator"
_BUDGETS = ("policy/v1", "poddisruptionbudgets")

_log = logging.getLogger("litefs_operator.reconcile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a decision.

    Attributes:
        failures: a sentence for each request that was refused; empty if all is done.
        taken: names of objects that exist and belong to somebody else.
    """

    failures: tuple[str, ...]
    taken: tuple[str, ...]


class Actor:
    """Writes to the API server."""

    def __init__(self, kube: KubeApi, master_key: bytes, metrics: Metrics) -> None:
        """Args: master_key: the clusters' tokens are made from it."""
        self._kube = kube
        self._master_key = master_key
        self._metrics = metrics

    def token(self, key: ClusterKey) -> str:
        """Returns the token of a cluster."""
        return cluster_token(self._master_key, *key)

    def create_token(self, cluster: Manifest) -> None:
        """Creates the Secret with the cluster's token, unless there is one or its namespace is being deleted.

        Raises:
            KubeError: it was refused.
            KubeUnavailableError: there is no answer.
        """
        namespace, name = cluster_key(cluster)
        try:
            self._kube.create(
                object_path("v1", "secrets", namespace), token_manifest(namespace, name, self.token((namespace, name)))
            )
        except (ConflictError, NamespaceEndingError):
            return
        self._metrics.writes.labels("secret").inc()

    def carry_out(self, cluster: Manifest, decision: Decision) -> Outcome:
        """Does everything but the status.

        Raises:
            KubeUnavailableError: there is no answer; what comes later was not tried.
        """
        failures: list[str] = []
        taken: list[str] = []
        for request in _requests(cluster["metadata"]["namespace"], decision):
            try:
                self._send(request)
                self._metrics.writes.labels(request.kind).inc()
            except (NotFoundError, NamespaceEndingError):
                continue  # a pod that is gone has no role, and a namespace that goes needs no Services
            except ConflictError:
                if not self._set_present(cluster, request):
                    taken.append(f"{request.kind} {request.name}")
            except KubeError as error:
                failures.append(f"{request.kind} {request.name}: {error}")
        return Outcome(failures=tuple(failures), taken=tuple(taken))

    def write_status(self, cluster: Manifest, status: Manifest) -> None:
        """Writes the status.

        Raises:
            KubeError: it was refused.
            KubeUnavailableError: there is no answer.
        """
        path, manifest = status_of(cluster, status)
        self._kube.apply(path, manifest, owner=OWNER)
        self._metrics.writes.labels("status").inc()

    def _set_present(self, cluster: Manifest, request: "_Request") -> bool:
        """Sets what was to be created and is there already, if it is ours. Returns whether it is.

        The watch is a moment behind, or somebody changed the labels by which it finds the object. What a LiteFSCluster
        of this name left, which was deleted, is ours.
        """
        if request.manifest is None:
            return False
        path, wanted = f"{request.path}/{request.name}", request.manifest
        try:
            owners = self._kube.get(path)["metadata"].get("ownerReferences") or []
            ours = (names.KIND, cluster["metadata"]["name"])
            is_ours = any((owner["kind"], owner["name"]) == ours for owner in owners)
            if is_ours:
                metadata = {key: wanted["metadata"][key] for key in ("labels", "ownerReferences")}
                self._kube.patch(path, {"metadata": metadata, "spec": wanted["spec"]})
        except KubeError:
            return False
        return is_ours

    def _send(self, request: "_Request") -> None:
        if request.patch is not None:
            self._kube.patch(request.path, request.patch)
        elif request.manifest is not None:
            self._kube.create(request.path, request.manifest)
        else:
            self._kube.delete(request.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A patch, a creation, or, with neither, a deletion."""

    kind: str
    name: str
    path: str
    patch: Manifest | None = None
    manifest: Manifest | None = None


def _requests(namespace: str, decision: Decision) -> Iterator[_Request]:
    """Yields what is to be sent, in order."""

    def label(pod: str, key: str, value: str) -> _Request:
        path = object_path("v1", "pods", namespace, pod)
        return _Request(kind="pod", name=pod, path=path, patch={"metadata": {"labels": {key: value}}})

    def create(kind: str, api: str, plural: str, manifest: Manifest) -> _Request:
        path = object_path(api, plural, namespace)
        return _Request(kind=kind, name=manifest["metadata"]["name"], path=path, manifest=manifest)

    for pod, node in decision.node_labels.items():
        yield label(pod, NODE, node)
    for name, patch in decision.patch_services.items():
        path = object_path("v1", "services", namespace, name)
        yield _Request(kind="service", name=name, path=path, patch=patch)
    for manifest in decision.create_services:
        yield create("service", "v1", "services", manifest)
    for pod, role in decision.role_labels.items():
        yield label(pod, ROLE, role)
    budget = decision.budget
    if budget.delete:
        path = object_path(*_BUDGETS, namespace, budget.delete)
        yield _Request(kind="budget", name=budget.delete, path=path)
    if budget.patch is not None:
        name, patch = budget.patch
        yield _Request(kind="budget", name=name, path=object_path(*_BUDGETS, namespace, name), patch=patch)
    if budget.create is not None:
        yield create("budget", *_BUDGETS, budget.create)

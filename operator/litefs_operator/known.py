"""The LiteFSClusters, and the labels of namespaces, as the API server has them: watched by both replicas."""

from collections.abc import Callable, Mapping
from typing import Any

from litefs_operator import names
from litefs_operator.kube import KubeApi, Manifest, object_path
from litefs_operator.metrics import Metrics
from litefs_operator.object_watch import ObjectWatch, Source

ClusterKey = tuple[str, str]
"""Namespace and name."""

_KEPT_METADATA = ("name", "namespace", "uid", "generation", "resourceVersion", "deletionTimestamp")


def cluster_key(manifest: Mapping[str, Any]) -> ClusterKey:
    """Returns namespace and name of an object."""
    metadata = manifest["metadata"]
    return str(metadata["namespace"]), str(metadata["name"])


def status_of(cluster: Mapping[str, Any], status: Manifest) -> tuple[str, Manifest]:
    """Returns where, and as what, fields of a LiteFSCluster's status are applied."""
    api_version = str(cluster["apiVersion"])
    namespace, name = cluster_key(cluster)
    manifest = {
        "apiVersion": api_version,
        "kind": cluster["kind"],
        "metadata": {"name": name, "namespace": namespace},
        "status": status,
    }
    return object_path(api_version, names.PLURAL, namespace, name, "status"), manifest


def kept_of(body: Mapping[str, Any]) -> Manifest:
    """Returns what is kept of a LiteFSCluster: not the bookkeeping of field owners, which is as large as the rest."""
    metadata = body["metadata"]
    return {
        "apiVersion": f"{names.GROUP}/{names.VERSION}",
        "kind": names.KIND,
        "metadata": {key: metadata[key] for key in _KEPT_METADATA if key in metadata},
        "spec": dict(body.get("spec") or {}),
        "status": dict(body.get("status") or {}),
    }


class Known:
    """What is known of them, watched from construction on. For one event loop."""

    def __init__(
        self, kube: KubeApi, namespaces: tuple[str, ...], metrics: Metrics, changed: Callable[[ClusterKey], None]
    ) -> None:
        """Args: namespaces: empty for all; changed: is told of every LiteFSCluster that came, changed or went."""

        def tell(before: Manifest | None, now: Manifest | None) -> None:
            manifest = now or before
            assert manifest is not None
            changed(cluster_key(manifest))

        version = f"{names.GROUP}/{names.VERSION}"
        paths = tuple(object_path(version, names.PLURAL, namespace) for namespace in namespaces or ("",))
        self._clusters = ObjectWatch(kube, Source(what=names.PLURAL, paths=paths), kept_of, tell)
        metrics.watch_age(names.PLURAL, self._clusters)
        self._namespaces: ObjectWatch[Mapping[str, str]] | None = None
        if not namespaces:  # otherwise the operator has no right to
            source = Source(what="namespaces", paths=(object_path("v1", "namespaces"),))
            self._namespaces = ObjectWatch(kube, source, _labels_of, lambda _before, _now: None)
            metrics.watch_age(source.what, self._namespaces)

    def is_listed(self) -> bool:
        """Returns whether every LiteFSCluster that there was at the start is known."""
        return self._clusters.is_listed()

    def cluster(self, key: ClusterKey) -> Manifest | None:
        """Returns a LiteFSCluster; not to be changed."""
        return self._clusters.objects.get(key)

    def clusters(self) -> list[ClusterKey]:
        """Returns the keys of all."""
        return list(self._clusters.objects)

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """Returns the labels of a namespace; None if it is not known."""
        return self._namespaces.objects.get(("", namespace)) if self._namespaces is not None else None


def _labels_of(namespace: Manifest) -> Mapping[str, str]:
    labels: Mapping[str, str] = namespace["metadata"].get("labels") or {}
    return labels

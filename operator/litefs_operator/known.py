"""The LiteFSClusters and namespaces that kopf watches, as its live indexes have them."""

from collections.abc import Mapping
from typing import Any, TypeVar

import kopf

from litefs_operator import names

Manifest = dict[str, Any]
Key = TypeVar("Key")
Value = TypeVar("Value")
ClusterKey = tuple[str, str]
"""Namespace and name."""

_KEPT_METADATA = ("name", "namespace", "uid", "generation", "resourceVersion", "deletionTimestamp")


def cluster_key(manifest: Mapping[str, Any]) -> ClusterKey:
    """Returns namespace and name of an object."""
    metadata = manifest["metadata"]
    return str(metadata["namespace"]), str(metadata["name"])


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
    """The indexes, once kopf has made them."""

    def __init__(self) -> None:
        self._clusters: kopf.Index[ClusterKey, Manifest] | None = None
        self._namespaces: kopf.Index[str, Mapping[str, str]] | None = None

    def bind(
        self,
        clusters: "kopf.Index[ClusterKey, Manifest]",
        namespaces: "kopf.Index[str, Mapping[str, str]] | None",
    ) -> None:
        """Takes the indexes, which kopf goes on filling."""
        self._clusters = clusters
        self._namespaces = namespaces

    def cluster(self, key: ClusterKey) -> Manifest | None:
        """Returns a LiteFSCluster; not to be changed."""
        return _only(self._clusters, key)

    def clusters(self) -> list[ClusterKey]:
        """Returns the keys of all."""
        return list(self._clusters) if self._clusters is not None else []

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """Returns the labels of a namespace; None if it is not known."""
        return _only(self._namespaces, namespace)


def _only(index: "kopf.Index[Key, Value] | None", key: Key) -> Value | None:
    """Values of an index come in collections, because several objects may have a key; ours never do."""
    return next(iter(index.get(key, ())), None) if index is not None else None

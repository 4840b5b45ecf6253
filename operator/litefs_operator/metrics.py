"""What the operator counts, for `GET /metrics`."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

_WEBHOOK_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Up to the timeout of the webhook's configuration."""


class Watch(Protocol):
    """What watches."""

    heard_at: float
    """When it heard anything last, in monotonic seconds."""


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.reconciles = Counter(
            "litefs_operator_reconciles",
            "Times that a LiteFSCluster was looked after, by outcome: done, failed.",
            ["outcome"],
            registry=self.registry,
        )
        self.writes = Counter(
            "litefs_operator_writes", "Requests that changed an object, by its kind.", ["kind"], registry=self.registry
        )
        self.injections = Counter(
            "litefs_operator_injections", "Pods that were given a sidecar, dry runs included.", registry=self.registry
        )
        self.refusals = Counter(
            "litefs_operator_refusals", "Pods that were refused, by reason.", ["reason"], registry=self.registry
        )
        self.webhook_seconds = Histogram(
            "litefs_operator_webhook_seconds",
            "Seconds from a request of the API server to the answer.",
            buckets=_WEBHOOK_BUCKETS_S,
            registry=self.registry,
        )
        self.leader = Gauge(
            "litefs_operator_leader", "1 on the replica that acts, 0 on the others.", registry=self.registry
        )
        self._watch_age = Gauge(
            "litefs_operator_watch_age_seconds",
            "Seconds since a watch of this replica last heard of the API server, or of Consul.",
            ["watch"],
            registry=self.registry,
        )
        self._clusters = Gauge(
            "litefs_operator_clusters", "LiteFSClusters that this replica knows.", registry=self.registry
        )

    def watch_age(self, name: str, watch: Watch) -> None:
        """Shows how long ago a watch heard anything."""
        self._watch_age.labels(name).set_function(lambda: time.monotonic() - watch.heard_at)

    def forget_watch(self, name: str) -> None:
        """Shows a watch no more that was ended."""
        with suppress(KeyError):  # two watches of a Consul, with another token each, share a name
            self._watch_age.remove(name)

    def cluster_count(self, count: Callable[[], int]) -> None:
        """Shows how many LiteFSClusters are known."""
        self._clusters.set_function(lambda: float(count()))

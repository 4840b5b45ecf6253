"""What the webhook leaves on a LiteFSCluster: the condition InjectionBlocked, and an Event for each refusal.

Strategy: every replica serves the webhook, and only one keeps the status. So this condition has an owner of its own,
which the API server keeps apart from the other conditions by server-side apply. It is written off the request's path,
and only when it changes.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from litefs_operator.errors import KubeError, KubeUnavailableError, RefusedError
from litefs_operator.events import ClusterEvent, EventRecorder, EventType
from litefs_operator.known import ClusterKey, cluster_key, status_of
from litefs_operator.kube import KubeApi, Manifest

CONDITION = "InjectionBlocked"
OWNER = "litefs-webhook"

INDEX_BEHIND_S = 5.0
"""A watch shows a write within a fraction of a second; this is for a busy API server."""

_log = logging.getLogger("litefs_operator.admission")


class InjectionStatus:
    """Tells what became of pods. For one event loop."""

    def __init__(self, kube: KubeApi, events: EventRecorder, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: events: posts the refusals; clock: monotonic seconds."""
        self._kube = kube
        self._events = events
        self._wanted: dict[ClusterKey, tuple[Manifest, dict[str, Any]]] = {}
        self._has_work = asyncio.Event()
        self._clock = clock
        self._written: dict[ClusterKey, tuple[str, str, float]] = {}

    def refused(self, cluster: Manifest, refused: RefusedError) -> None:
        """A pod of a cluster was refused; returns at once."""
        self._events.post(
            ClusterEvent(cluster=cluster, type=EventType.WARNING, reason=refused.reason, message=str(refused))
        )
        self._want(cluster, "True", refused.reason, str(refused))

    def admitted(self, cluster: Manifest) -> None:
        """A pod of a cluster got its sidecar; returns at once."""
        self._want(cluster, "False", "PodInjected", "the last pod that asked for a sidecar got one")

    def _want(self, cluster: Manifest, status: str, reason: str, message: str) -> None:
        current = _condition_of(cluster)
        key = cluster_key(cluster)
        if (current.get("status"), current.get("reason")) == (status, reason) or self._was_just_written(
            key, status, reason
        ):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        since = current.get("lastTransitionTime", now) if current.get("status") == status else now
        condition = {
            "type": CONDITION,
            "status": status,
            "reason": reason,
            "message": message[:1024],
            "lastTransitionTime": since,
            "observedGeneration": cluster["metadata"].get("generation", 0),
        }
        self._wanted[key] = (cluster, condition)
        self._has_work.set()

    def _was_just_written(self, key: ClusterKey, status: str, reason: str) -> bool:
        """The index is a moment behind: what was written a moment ago counts."""
        *written, at = self._written.get(key, ("", "", 0.0))
        return written == [status, reason] and self._clock() - at < INDEX_BEHIND_S

    async def run(self) -> None:
        """Writes what was told, until it is cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._wanted:
                key, (cluster, condition) = self._wanted.popitem()
                now = self._clock()
                self._written = {entry: last for entry, last in self._written.items() if now - last[2] < INDEX_BEHIND_S}
                self._written[key] = (condition["status"], condition["reason"], now)
                try:
                    await asyncio.to_thread(self._write, cluster, condition)
                except (KubeError, KubeUnavailableError) as error:
                    self._written.pop(key, None)
                    _log.warning("%s of %s/%s cannot be written: %s", CONDITION, *key, error)

    def _write(self, cluster: Manifest, condition: dict[str, Any]) -> None:
        path, manifest = status_of(cluster, {"conditions": [condition]})
        self._kube.apply(path, manifest, owner=OWNER)


def _condition_of(cluster: Manifest) -> dict[str, Any]:
    conditions = cluster.get("status", {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == CONDITION), {})

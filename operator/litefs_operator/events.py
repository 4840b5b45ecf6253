"""Events on LiteFSClusters: what `kubectl describe litefscluster` lists at its end.

Strategy: they are posted off the path of whoever reports them, by one task, from a bounded queue: when the API server
cannot be reached, events are lost and nothing else. One that repeats is counted in the Event that is there.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from litefs_operator.errors import KubeError, KubeUnavailableError, NamespaceEndingError
from litefs_operator.kube import KubeApi, Manifest, object_path

QUEUE_EVENTS = 500
"""Waiting to be posted: more than 200 clusters report at once; a few hundred bytes each."""

REMEMBERED_EVENTS = 1000
"""Kept to count repetitions in; the API server itself forgets an Event after an hour."""

REPEAT_S = 60.0
"""A repetition within it is counted and not posted: controllers try a refused pod again every few seconds at first."""

FORGET_S = 3000.0
"""Less than the hour for which the API server keeps an Event."""

_log = logging.getLogger("litefs_operator.events")


class EventType(StrEnum):
    """Kubernetes knows two."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEvent:
    """Something that happened.

    Attributes:
        cluster: the LiteFSCluster, as the API server has it.
        reason: one word in CamelCase, for machines.
        message: a sentence.
    """

    cluster: Manifest
    type: EventType
    reason: str
    message: str


@dataclass(slots=True)
class _Posted:
    name: str
    count: int
    first: str
    posted_at: float


class EventRecorder:
    """Posts Events. For one event loop."""

    def __init__(self, kube: KubeApi, component: str, instance: str, clock: Callable[[], float] = time.monotonic):
        """Args: component and instance: who reports; clock: monotonic seconds."""
        self._kube = kube
        self._component = component
        self._instance = instance
        self._clock = clock
        self._queue: asyncio.Queue[ClusterEvent] = asyncio.Queue(QUEUE_EVENTS)
        self._posted: OrderedDict[tuple[str, str, str], _Posted] = OrderedDict()

    def post(self, event: ClusterEvent) -> None:
        """Takes an event; returns at once."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            _log.warning("too many events: %s of %s is lost", event.reason, event.cluster["metadata"]["name"])

    async def run(self) -> None:
        """Posts what was taken, until it is cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._write(event)
            except NamespaceEndingError:
                continue  # nobody will read it
            except (KubeError, KubeUnavailableError) as error:
                _log.warning("an event (%s) is lost: %s", event.reason, error)

    async def _write(self, event: ClusterEvent) -> None:
        metadata = event.cluster["metadata"]
        now, at = self._clock(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        key = (str(metadata["uid"]), event.reason, event.message)
        before = self._posted.get(key)
        if before is None or now - before.posted_at > FORGET_S:
            name = f"{metadata['name']}.{time.time_ns():x}"
            self._posted[key] = _Posted(name=name, count=1, first=at, posted_at=now)
            while len(self._posted) > REMEMBERED_EVENTS:
                self._posted.popitem(last=False)
            path = object_path("v1", "events", metadata["namespace"])
            await asyncio.to_thread(self._kube.create, path, self._manifest(event, name, at))
            return
        before.count += 1
        if now - before.posted_at >= REPEAT_S:
            before.posted_at = now
            path = object_path("v1", "events", metadata["namespace"], before.name)
            await asyncio.to_thread(self._kube.patch, path, {"count": before.count, "lastTimestamp": at})

    def _manifest(self, event: ClusterEvent, name: str, at: str) -> Manifest:
        metadata = event.cluster["metadata"]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": event.cluster["apiVersion"],
                "kind": event.cluster["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": str(event.type),
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }

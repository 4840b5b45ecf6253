"""Which replica acts: the holder of a coordination.k8s.io Lease.

    standby --took it--> leading --not renewed in time, or another holds it--> standby
                            └--told to end: released--> the other takes it within a second

Strategy: whoever wants the Lease replaces it as read, so that the API server lets one of two through. A holder that
does not renew is one whose Lease looked the same for its whole duration, by the clock of the one who looks: clocks are
never compared. The holder counts from when it sent what was confirmed, and stops acting earlier than that.

Guarantees: two replicas do not act at once, as far as requests under way are done within the margin. What they do is
level-based and names resource versions nowhere, so an overlap would cost writes, not correctness.

Source: client-go, tools/leaderelection; Kubernetes 1.34, coordination.k8s.io/v1.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from litefs_operator.errors import ConflictError, KubeError, KubeUnavailableError, NotFoundError
from litefs_operator.kube import KubeApi, Manifest, object_path

DURATION_S = 8
"""For so long -rw stays where it is when the holder's machine dies. client-go has 15, because what could not renew in
time ends there. Here it stops acting, which needs the API server as renewing does, and goes on when it can."""
RENEW_S = 1.5
ACT_S = 6.0
"""How long the holder acts after the last confirmed renewal; the rest is for what it has sent already."""
ANSWER_S = 2.0
"""For a request about the Lease: when one gets no answer, another is sent before the holder must stop."""
LOOK_S = 1.0
"""How often a standby looks: it takes over a second after a release, and asks the API server for one small object."""

_API = "coordination.k8s.io/v1"
_log = logging.getLogger("litefs_operator.leader")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The Lease as it was last seen to change.

    Attributes:
        fields: what the holder changes by renewing.
        at: monotonic seconds.
    """

    fields: tuple[object, ...]
    at: float


def may_take(spec: Manifest, identity: str, seen: Seen, now: float) -> bool:
    """Returns whether a replica may write itself into the Lease.

    Args:
        spec: of the Lease.
        identity: of the replica.
        seen: when the Lease changed last.
        now: monotonic seconds.
    """
    holder = spec.get("holderIdentity") or ""
    return holder in ("", identity) or now - seen.at > float(spec.get("leaseDurationSeconds") or DURATION_S)


class Leader:
    """One replica's side of the Lease. For one event loop."""

    def __init__(
        self, kube: KubeApi, namespace: str, name: str, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: identity: of this replica, the pod's name; clock: monotonic seconds."""
        self._kube = kube.within(ANSWER_S)
        self._collection = object_path(_API, "leases", namespace)
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._seen = Seen(fields=(), at=clock())
        self._acts_until = 0.0
        self._is_ending = False
        self._acting: asyncio.Future[None] | None = None
        self._asking = asyncio.Lock()
        """Held during a request: a renewal and the release would refuse each other."""

    def leads(self) -> bool:
        """Returns whether this replica acts."""
        return not self._is_ending and self._clock() < self._acts_until

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Runs `lead` whenever this replica has the Lease, and cancels it when it has it no more.

        Returns after `release`.
        """
        renewing = asyncio.create_task(self._renew())
        try:
            while not self._is_ending and not renewing.done():
                if self.leads():
                    await self._lead(lead)
                await asyncio.wait([renewing], timeout=0.1 * LOOK_S)
            if renewing.done():
                renewing.result()  # it ends by itself only when it failed, or was told to
        finally:
            renewing.cancel()

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Runs `lead` for as long as this replica has the Lease: also while a renewal waits for its answer."""
        _log.info("this replica acts: it holds the Lease %s", self._name)
        acting = self._acting = asyncio.ensure_future(lead())
        try:
            while self.leads() and not acting.done():
                await asyncio.wait([acting], timeout=max(min(self._acts_until - self._clock(), LOOK_S), 0.0))
        finally:
            acting.cancel()
            await asyncio.wait([acting])
        _log.info("this replica acts no more")
        if not acting.cancelled() and acting.exception() is not None:
            raise RuntimeError("the acting part ended") from acting.exception()

    async def _renew(self) -> None:
        """Looks after the Lease, until it is cancelled."""
        while not self._is_ending:
            await self.step()
            await asyncio.sleep(RENEW_S if self.leads() else LOOK_S)

    async def release(self) -> None:
        """Stops acting, and lets the other replica take over at once."""
        was_leading = self.leads()
        self._is_ending = True
        self._acts_until = 0.0
        if self._acting is not None:
            self._acting.cancel()
        if not was_leading:
            return
        try:
            async with self._asking:
                await asyncio.to_thread(self._write_release)
        except (KubeError, KubeUnavailableError) as error:
            _log.warning("the Lease could not be released, and runs out by itself: %s", error)

    async def step(self) -> None:
        """Renews or takes the Lease, if that is due; what cannot be asked is as it was."""
        try:
            async with self._asking:
                sent = self._clock()
                is_ours = await asyncio.to_thread(self._take)
        except ConflictError:
            sent, is_ours = 0.0, False
        except (KubeError, KubeUnavailableError) as error:
            _log.warning("the Lease cannot be read or renewed: %s", error)
            return  # what was confirmed counts until it runs out
        self._acts_until = sent + ACT_S if is_ours else 0.0

    def _take(self) -> bool:
        """Renews or takes the Lease, if that is due. Returns whether it is held by this replica."""
        path = f"{self._collection}/{self._name}"
        try:
            lease = self._kube.get(path)
        except NotFoundError:
            self._kube.create(self._collection, self._manifest({}))
            return True
        spec = lease.get("spec") or {}
        fields = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if fields != self._seen.fields:
            self._seen = Seen(fields=fields, at=self._clock())
        if not may_take(spec, self._identity, self._seen, self._clock()) or self._is_ending:
            return False
        self._kube.replace(path, self._manifest(lease))
        return True

    def _write_release(self) -> None:
        path = f"{self._collection}/{self._name}"
        lease = self._kube.get(path)
        if lease["spec"].get("holderIdentity") == self._identity:
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            self._kube.replace(path, lease)

    def _manifest(self, lease: Manifest) -> Manifest:
        before: dict[str, Any] = lease.get("spec") or {}
        spec = {**before, "holderIdentity": self._identity, "leaseDurationSeconds": DURATION_S, "renewTime": _now()}
        if before.get("holderIdentity") != self._identity:
            spec["acquireTime"] = spec["renewTime"]
            spec["leaseTransitions"] = int(before.get("leaseTransitions") or 0) + 1
        metadata = lease.get("metadata") or {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": _API, "kind": "Lease", "metadata": metadata, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

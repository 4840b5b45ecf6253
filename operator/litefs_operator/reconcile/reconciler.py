"""The loop that keeps all LiteFSClusters: whatever changes marks a cluster, and workers look after the marked ones.

    a LiteFSCluster, a pod, a Service, a budget, the lease, a node's answer  →  touch(cluster)  →  observe, decide, act

Strategy: nodes are asked at once when the lease or the pods change, and otherwise for news: they answer when their
standing changes, or after some seconds, so that what the status says of positions is not old. -rw follows the lease and
waits for no node.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from litefs_operator.builders.services import NO_NODE, NODE, rw_service
from litefs_operator.crd import ClusterSpec
from litefs_operator.errors import KubeError, KubeUnavailableError, SpecError
from litefs_operator.events import ClusterEvent, EventRecorder, EventType
from litefs_operator.injection import Installation, revision_of
from litefs_operator.known import ClusterKey, Known, cluster_key
from litefs_operator.kube import Manifest
from litefs_operator.metrics import Metrics
from litefs_operator.names import token_secret
from litefs_operator.node_client import NodeClient, Probe
from litefs_operator.reconcile.act import Actor, Outcome
from litefs_operator.reconcile.decide import Decision, Notice, decide
from litefs_operator.reconcile.leases import Leases
from litefs_operator.reconcile.observed import LeaseState, LeaseView, Member, Memory, Observation
from litefs_operator.reconcile.status import is_news, same_status
from litefs_operator.reconcile.stores import Stores
from litefs_operator.reconcile.work_queue import WorkQueue
from litefs_operator.schema import parse

WORKERS = 4
"""Clusters looked after at once: each spends its time waiting for the API server."""

STATUS_S = 5.0
"""Between two writes of a status that tell nothing new but positions and lags."""

WAIT_SETTLED_S = 20.0
"""How long the nodes of a cluster that is well may wait for news, before they tell how far they are."""
WAIT_UNSETTLED_S = (0.5, 1.0, 2.0, 5.0)
"""How long those of one that is not, since its lease, its pods or a node changed; the last is repeated."""

NEWS_S = 0.2
"""Between two rounds that brought news: a node that changes all the time may not keep the operator busy."""

RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0)
"""After failures in a row; the last is repeated."""

FIRST_S = 10.0
"""How long a cluster that is new to this replica waits for Consul and its nodes before its status is written."""

_log = logging.getLogger("litefs_operator.reconcile")


@dataclass(slots=True)
class _Work:
    """What the replica that acts remembers of a cluster."""

    uid: str
    since: float
    memory: Memory
    probes: dict[str, Probe] = field(default_factory=dict)
    asking: "asyncio.Task[None] | None" = None
    asked_for: tuple[object, ...] = ()
    asks: int = 0
    is_settled: bool = False
    has_token: bool = False
    failures: int = 0
    status: Manifest | None = None
    """What was written last: the index is a moment behind."""
    status_at: float = 0.0
    alarm: asyncio.TimerHandle | None = None

    def wait_s(self) -> float:
        """Returns how long the nodes may wait for news; the first question since something changed is for an answer."""
        if not self.asks:
            return 0.0
        return WAIT_SETTLED_S if self.is_settled else WAIT_UNSETTLED_S[min(self.asks, len(WAIT_UNSETTLED_S)) - 1]


class Reconciler:
    """Keeps the clusters while its `run` goes on. For one event loop."""

    def __init__(
        self,
        known: Known,
        stores: Stores,
        installation: Installation,
        leases: Callable[[Callable[[ClusterKey], None]], Leases],
        actor: Actor,
        nodes: NodeClient,
        events: EventRecorder,
        metrics: Metrics,
    ) -> None:
        """Args: leases: makes the watches, given who is told of changes; nodes: is closed at the end."""
        self._known = known
        self._stores = stores
        self._installation = installation
        self._leases = leases(self.touch)
        self._actor = actor
        self._events = events
        self._metrics = metrics
        self._nodes = nodes
        self._works: dict[ClusterKey, _Work] = {}
        self._queue: WorkQueue[ClusterKey] = WorkQueue()

    def touch(self, key: ClusterKey) -> None:
        """Marks a cluster; returns at once."""
        self._queue.put(key)

    def touch_namespace(self, namespace: str) -> None:
        """Marks every cluster of a namespace; returns at once."""
        for key in self._known.clusters():
            if key[0] == namespace:
                self._queue.put(key)

    async def run(self) -> None:
        """Looks after the marked clusters, and at the start after all, until it is cancelled."""
        for key in self._known.clusters():
            self.touch(key)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        finally:
            for key in list(self._works):
                self._forget(key)
            self._leases.close()
            await self._nodes.close()

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            outcome = "failed"
            try:
                await self._look_after(key)
                outcome = "done"
            except (KubeError, KubeUnavailableError) as error:
                _log.warning("%s/%s: %s", *key, error)
                self._retry(key)
            except Exception:  # noqa: BLE001 - one cluster that cannot be looked after must not stop the others
                _log.exception("%s/%s could not be looked after", *key)
                self._retry(key)
            finally:
                self._metrics.reconciles.labels(outcome).inc()
                self._queue.done(key)

    async def _look_after(self, key: ClusterKey) -> None:
        cluster = self._known.cluster(key)
        if cluster is None or "deletionTimestamp" in cluster["metadata"]:
            self._forget(key)
            return
        try:
            spec = parse(ClusterSpec, cluster["spec"])
        except SpecError as error:
            _log.error("%s/%s: %s", *key, error)
            return
        work = self._work_of(key, cluster)
        token_failure = await self._create_token(cluster, work)
        lease = self._leases.view(key, spec)
        members = self._stores.members(key)
        if lease.state is LeaseState.UNKNOWN and time.monotonic() - work.since < FIRST_S:
            self._keep_asking(key, work, spec, lease, members)
            self._alarm(key, work, FIRST_S)
            return
        decision = decide(self._observe(cluster, spec, lease, members, work))
        work.memory = decision.memory
        work.is_settled = _is_ready(decision.status)
        self._keep_asking(key, work, spec, lease, members)
        outcome = await asyncio.to_thread(self._actor.carry_out, cluster, decision)
        outcome = Outcome(failures=token_failure + outcome.failures, taken=outcome.taken)
        pause_s = await self._write_status(cluster, work, members, decision)
        self._report(cluster, outcome)
        if outcome.failures or outcome.taken:
            self._retry(key)
            return
        work.failures = 0
        pauses = [pause for pause in (pause_s, decision.look_again_s) if pause is not None]
        if pauses:
            self._alarm(key, work, max(min(pauses), 0.0))

    async def _create_token(self, cluster: Manifest, work: _Work) -> tuple[str, ...]:
        """Creates the token, once. A refusal, as by a quota, keeps new pods from starting and -rw from nothing."""
        if not work.has_token:
            try:
                await asyncio.to_thread(self._actor.create_token, cluster)
            except KubeError as error:
                return (f"secret {token_secret(cluster['metadata']['name'])}: {error}",)
            work.has_token = True
        return ()

    def _observe(
        self, cluster: Manifest, spec: ClusterSpec, lease: LeaseView, members: tuple[Member, ...], work: _Work
    ) -> Observation:
        key = cluster_key(cluster)
        return Observation(
            cluster={**cluster, "status": work.status or cluster["status"]},
            spec=spec,
            revision=revision_of(spec, self._installation),
            members=members,
            probes=dict(work.probes),
            lease=lease,
            services=self._stores.services(key),
            budgets=self._stores.budgets(key[0]),
            memory=work.memory,
            now=time.monotonic(),
            timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def _work_of(self, key: ClusterKey, cluster: Manifest) -> _Work:
        uid = str(cluster["metadata"]["uid"])
        work = self._works.get(key)
        if work is not None and work.uid != uid:
            self._forget(key)  # deleted and made again
            work = None
        if work is None:
            # Where -rw points is what the replica that acted before left.
            rw = self._stores.services(key).get(rw_service(key[1]))
            node = str(rw.spec["selector"].get(NODE, "")) if rw is not None else ""
            memory = Memory(primary_node="" if node == NO_NODE else node)
            work = self._works[key] = _Work(uid=uid, since=time.monotonic(), memory=memory)
        return work

    # ---- asking the nodes ----

    def _keep_asking(
        self, key: ClusterKey, work: _Work, spec: ClusterSpec, lease: LeaseView, members: tuple[Member, ...]
    ) -> None:
        """Begins another round of questions, if none is under way, or if what is waited for is another lease or pod."""
        wanted = (lease, tuple((member.uid, member.ip, member.is_ready, member.is_ending) for member in members))
        if work.asking is not None:
            if wanted == work.asked_for or not work.asks:
                return  # its end marks the cluster
            work.asking.cancel()
        work.asks = work.asks + 1 if wanted == work.asked_for else 0
        work.asked_for = wanted
        work.asking = asyncio.create_task(self._ask(key, work, spec.http.port, members))

    async def _ask(self, key: ClusterKey, work: _Work, port: int, members: tuple[Member, ...]) -> None:
        """Asks the nodes once, and marks the cluster."""
        token, wait_s = self._actor.token(key), work.wait_s()
        asks: dict[str, asyncio.Task[Probe]] = {}
        for member in members:
            if member.ip:
                ask = self._nodes.ask(member.ip, member.port or port, token, work.probes.get(member.uid), wait_s)
                asks[member.uid] = asyncio.create_task(ask)
        try:
            if asks:
                await self._hear(work, asks, wait_s)
            else:
                await asyncio.sleep(wait_s)
        finally:
            for task in asks.values():
                task.cancel()
            if work.asking is asyncio.current_task():
                work.asking = None
                self.touch(key)

    async def _hear(self, work: _Work, asks: "dict[str, asyncio.Task[Probe]]", wait_s: float) -> None:
        """Takes the answers. Of nodes that wait for news, the first ends the round; others tell theirs in the next."""
        begun, before = time.monotonic(), work.probes
        waiting, has_news = set(asks.values()), False
        when = asyncio.FIRST_COMPLETED if wait_s else asyncio.ALL_COMPLETED
        while waiting and not has_news:
            _, waiting = await asyncio.wait(waiting, return_when=when)
            heard = {uid: task.result() for uid, task in asks.items() if task.done()}
            work.probes = {uid: probe for uid, probe in before.items() if uid in asks} | heard
            has_news = any(probe.is_news_after(before.get(uid)) for uid, probe in heard.items())
        if has_news and wait_s:
            work.asks = 0
            await asyncio.sleep(max(begun + NEWS_S - time.monotonic(), 0.0))

    # ---- telling ----

    async def _write_status(
        self, cluster: Manifest, work: _Work, members: tuple[Member, ...], decision: Decision
    ) -> float | None:
        """Writes the status if it is another one. Returns when to come back to write what had to wait."""
        now = time.monotonic()
        is_new = now - work.since < FIRST_S and any(member.ip and member.uid not in work.probes for member in members)
        if is_new or (work.asking is not None and work.asks == 0):
            # What the nodes said before the lease or the pods changed would be told as news. Their answers, which
            # take a few seconds at most, mark the cluster.
            return None
        before = work.status or cluster["status"]
        if same_status(before, decision.status):
            return None
        wait_s = work.status_at + STATUS_S - now
        if wait_s > 0.0 and not is_news(before, decision.status):
            return wait_s
        await asyncio.to_thread(self._actor.write_status, cluster, decision.status)
        work.status, work.status_at = decision.status, now
        for notice in decision.notices:
            self._post(cluster, notice)
        return None

    def _report(self, cluster: Manifest, outcome: Outcome) -> None:
        for taken in outcome.taken:
            message = f"the {taken} exists and is not of this LiteFSCluster: rename or delete it"
            self._post(cluster, Notice(type=EventType.WARNING, reason="NameTaken", message=message))
        for failure in outcome.failures:
            _log.warning("%s/%s: %s", *cluster_key(cluster), failure)
            self._post(cluster, Notice(type=EventType.WARNING, reason="WriteRefused", message=failure))

    def _post(self, cluster: Manifest, notice: Notice) -> None:
        self._events.post(ClusterEvent(cluster=cluster, type=notice.type, reason=notice.reason, message=notice.message))

    # ---- coming back ----

    def _alarm(self, key: ClusterKey, work: _Work, pause_s: float) -> None:
        if work.alarm is not None:
            work.alarm.cancel()
        work.alarm = asyncio.get_running_loop().call_later(pause_s, self.touch, key)

    def _retry(self, key: ClusterKey) -> None:
        work = self._works.get(key)
        if work is None:
            asyncio.get_running_loop().call_later(RETRY_S[-1], self.touch, key)
            return
        self._alarm(key, work, RETRY_S[min(work.failures, len(RETRY_S) - 1)])
        work.failures += 1

    def _forget(self, key: ClusterKey) -> None:
        self._leases.forget(key)
        work = self._works.pop(key, None)
        if work is None:
            return
        if work.alarm is not None:
            work.alarm.cancel()
        if work.asking is not None:
            work.asking.cancel()


def _is_ready(status: Manifest) -> bool:
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in status["conditions"])

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest

from litefs_operator.errors import KubeError
from litefs_operator.events import EventRecorder
from litefs_operator.injection import Installation
from litefs_operator.kube import object_path
from litefs_operator.metrics import Metrics
from litefs_operator.node_client import Probe
from litefs_operator.reconcile import reconciler as module
from litefs_operator.reconcile.act import Actor
from litefs_operator.reconcile.observed import (
    KeptBudget,
    KeptService,
    LeaseState,
    LeaseView,
    Member,
    budget_of,
    member_of,
    service_of,
)
from litefs_operator.reconcile.reconciler import Reconciler
from tests.unit.operator.fake_kube import FakeKube
from tests.unit.operator.reconcile.seen import CLUSTER, answer, held_by, silence

Manifest = dict[str, Any]
KEY = ("web", "blog")
SPACE = "/api/v1/namespaces/web"
CLUSTER_PATH = object_path("litefs.io/v1alpha1", "litefsclusters", *KEY)


def pod(index: int) -> Manifest:
    return {
        "metadata": {
            "name": f"blog-{index}",
            "namespace": "web",
            "uid": f"pod-{index}",
            "labels": {"litefs.io/cluster": "blog"},
        },
        "spec": {"volumes": [{"name": "litefs-data", "persistentVolumeClaim": {"claimName": "c"}}]},
        "status": {"podIP": f"10.0.0.{index}", "conditions": [{"type": "Ready", "status": "True"}]},
    }


class World:
    """A reconciler, with an API server in memory whose changes it is told, a lease, and nodes that answer."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.lease = held_by(0)
        self.primary = 0
        self.silent: set[int] = set()
        self.behind: set[int] = set()
        self.restless: Iterator[int] = iter(())
        """Is news each time that a node is asked."""
        self.asked: list[str] = []
        self.forgotten: list[object] = []
        self.reconciler: Reconciler
        self.kube.put(CLUSTER_PATH, CLUSTER)
        for index in range(3):
            self.kube.put(f"{SPACE}/pods/blog-{index}", pod(index))

    # ---- what a reconciler is given ----

    def cluster(self, key: object) -> Manifest | None:
        return self.kube.objects.get(CLUSTER_PATH) if key == KEY else None

    def clusters(self) -> list[tuple[str, str]]:
        return [KEY]

    def members(self, _key: object) -> tuple[Member, ...]:
        return tuple(member_of(found) for found in self._of_kind("/pods/"))

    def services(self, _key: object) -> dict[str, KeptService]:
        return {found["metadata"]["name"]: service_of(found) for found in self._of_kind("/services/")}

    def budgets(self, _namespace: str) -> tuple[KeptBudget, ...]:
        return tuple(budget_of(found) for found in self._of_kind("/poddisruptionbudgets/"))

    def view(self, _key: object, _spec: object) -> LeaseView:
        return self.lease

    def forget(self, key: object) -> None:
        self.forgotten.append(key)

    async def ask(self, ip: str, port: int, token: str, before: Probe | None, wait_s: float = 0.0) -> Probe:
        index = int(ip.rpartition(".")[2])
        self.asked.append(ip)
        end = time.monotonic() + wait_s
        while not (probe := self.probe(index)).is_news_after(before) and time.monotonic() < end:  # noqa: ASYNC110 - as a node does
            await asyncio.sleep(0.001)
        return probe

    def probe(self, index: int) -> Probe:
        if index in self.silent:
            return silence()
        is_primary = index == self.primary
        is_ready = index not in self.behind
        said = answer(
            index,
            role="primary" if is_primary else "replica",
            lag_ms=None if is_primary else 1,
            lease_remaining_s=9.0 if is_primary else 0.0,
            is_ready=is_ready,
            standing=f"{is_primary}{is_ready}{next(self.restless, '')}",
        )
        return Probe(at=time.monotonic(), answer=said, answered_at=1.0)

    def close(self) -> None:
        pass

    # ---- what a test does ----

    def run(self, talk: Callable[["World"], Awaitable[None]]) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            metrics = Metrics()
            events = EventRecorder(cast("Any", self.kube), "litefs-operator", "op-1")
            self.reconciler = Reconciler(
                cast("Any", self),
                cast("Any", self),
                Installation(image="litefs:1", consul_url="http://consul:8500"),
                lambda _touch: cast("Any", self),
                Actor(cast("Any", self.kube), b"k" * 32, metrics),
                cast("Any", Nodes(self)),
                events,
                metrics,
            )
            self.kube.changed = lambda: loop.call_soon_threadsafe(self.reconciler.touch, KEY)
            tasks = [asyncio.create_task(part) for part in (self.reconciler.run(), events.run())]
            try:
                async with asyncio.timeout(20):
                    await talk(self)
            finally:
                self.kube.changed = lambda: None
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in itertools.count():
            if holds():
                return
            await asyncio.sleep(0.001)  # requests come from threads

    def status(self) -> Manifest:
        found: Manifest = self.kube.objects[CLUSTER_PATH].get("status") or {}
        return found

    def rw_node(self) -> str:
        service = self.kube.objects.get(f"{SPACE}/services/blog-rw")
        return "" if service is None else str(service["spec"]["selector"]["litefs.io/node"])

    def _of_kind(self, part: str) -> list[Manifest]:
        # Copied at once: threads change it.
        return [found for path, found in sorted(self.kube.objects.copy().items()) if part in path]


class Nodes:
    """The nodes of a world, to be closed apart from it."""

    def __init__(self, world: World) -> None:
        self.ask = world.ask

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", (0.001,))
    monkeypatch.setattr(module, "WAIT_UNSETTLED_S", (0.01,))
    monkeypatch.setattr(module, "WAIT_SETTLED_S", 1000.0)
    monkeypatch.setattr(module, "STATUS_S", 0.0)


def test_a_new_cluster_is_brought_up() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")

    world.run(talk)
    assert world.rw_node() == "ID0"
    assert world.status()["primary"] == "blog-0"
    assert f"{SPACE}/secrets/blog-litefs-token" in world.kube.objects
    labels = [found["metadata"]["labels"]["litefs.io/role"] for found in world._of_kind("/pods/")]
    assert labels == ["primary", "replica", "replica"]


def test_rw_follows_the_lease_without_asking_anybody() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        world.silent = {0, 1, 2}
        world.kube.requests.clear()
        world.lease = held_by(1)
        world.reconciler.touch(KEY)
        await world.until(lambda: world.rw_node() == "ID1")

    world.run(talk)
    writes = [request for request in world.kube.written() if "/events" not in request[1]]
    assert writes[0] == ("PATCH", f"{SPACE}/services/blog-rw")


def test_a_cluster_that_is_well_is_left_alone() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        for _ in range(3):
            await world.until(lambda: not world.reconciler._queue._waiting and not world.reconciler._queue._taken)
            await asyncio.sleep(0.01)
        world.kube.requests.clear()
        for _ in range(5):
            world.reconciler.touch(KEY)
            await asyncio.sleep(0.005)

    world.run(talk)
    assert [request for request in world.kube.requests if "/events" not in request[1]] == []


def test_a_node_that_falls_silent_shows_in_the_status() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        world.silent = {2}
        changed = pod(2)
        changed["metadata"]["labels"] |= {"litefs.io/node": "ID2", "litefs.io/role": "replica"}
        changed["status"]["conditions"][0]["status"] = "False"
        world.kube.put(f"{SPACE}/pods/blog-2", changed)
        await world.until(lambda: world.status()["phase"] == "Degraded")

    world.run(talk)
    assert world.status()["nodeCount"] == "2/3"


def test_what_a_node_says_of_itself_is_heard_at_once() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        world.behind = {2}
        await world.until(lambda: world.status()["phase"] == "Degraded")
        world.behind = set()
        await world.until(lambda: world.status()["phase"] == "Running")

    world.run(talk)


def test_a_node_that_changes_all_the_time_does_not_keep_the_operator_busy() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        world.restless = itertools.count()
        world.asked.clear()
        begun = time.monotonic()
        await world.until(lambda: len(world.asked) >= 12)
        assert time.monotonic() - begun >= 2 * module.NEWS_S

    world.run(talk)


def test_what_somebody_deleted_comes_back() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        world.kube.delete(f"{SPACE}/services/blog-ro")
        world.kube.changed()
        await world.until(lambda: f"{SPACE}/services/blog-ro" in world.kube.objects)

    world.run(talk)


def test_a_refused_request_is_tried_again_and_told() -> None:
    class Moody(FakeKube):
        refusals = 2

        def create(self, path: str, manifest: Manifest) -> Manifest:
            if path.endswith("/services") and self.refusals:
                self.refusals -= 1
                raise KubeError(403, "services is forbidden")
            return super().create(path, manifest)

    world = World()
    moody = Moody()
    moody.objects = world.kube.objects
    world.kube = moody

    async def talk(world: World) -> None:
        await world.until(lambda: len(world.services(KEY)) == 4)
        await world.until(lambda: "WriteRefused" in {found["reason"] for found in world._of_kind("/events/")})

    world.run(talk)


def test_a_refused_token_does_not_keep_the_services_from_being_made() -> None:
    class Quota(FakeKube):
        def create(self, path: str, manifest: Manifest) -> Manifest:
            if path.endswith("/secrets"):
                raise KubeError(403, "exceeded quota")
            return super().create(path, manifest)

    world = World()
    quota = Quota()
    quota.objects = world.kube.objects
    world.kube = quota

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        await world.until(lambda: "WriteRefused" in {found["reason"] for found in world._of_kind("/events/")})

    world.run(talk)
    assert world.rw_node() == "ID0"


def test_a_deleted_cluster_is_forgotten() -> None:
    world = World()

    async def talk(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")
        del world.kube.objects[CLUSTER_PATH]
        world.reconciler.touch(KEY)
        await world.until(lambda: KEY in world.forgotten)

    world.run(talk)


def test_who_begins_to_act_leaves_rw_where_it_is_until_consul_was_heard() -> None:
    world = World()

    async def first(world: World) -> None:
        await world.until(lambda: world.status().get("phase") == "Running")

    world.run(first)
    world.lease = LeaseView(state=LeaseState.UNKNOWN)

    async def second(world: World) -> None:
        await world.until(lambda: bool(world.asked))
        await asyncio.sleep(0.02)
        assert world.rw_node() == "ID0"
        world.lease = held_by(2)
        world.reconciler.touch(KEY)
        await world.until(lambda: world.rw_node() == "ID2")

    world.asked.clear()
    world.run(second)


def test_a_spec_that_cannot_be_read_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.kube.put(CLUSTER_PATH, {**CLUSTER, "spec": {"http": {"port": "x"}}})

    async def talk(world: World) -> None:
        await world.until(lambda: "spec.http.port" in caplog.text)

    world.run(talk)
    assert world.kube.written() == []

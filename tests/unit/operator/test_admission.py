import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from litefs_operator.admission import Admission, PodReview
from litefs_operator.errors import RefusedError
from litefs_operator.events import EventRecorder
from litefs_operator.injection import Injected, Installation
from litefs_operator.injection_status import InjectionStatus
from litefs_operator.known import ClusterKey
from litefs_operator.metrics import Metrics
from tests.unit.operator.fake_kube import FakeKube

Pod = dict[str, Any]
CLUSTER_PATH = "/apis/litefs.io/v1alpha1/namespaces/web/litefsclusters/blog"
CLUSTER: dict[str, Any] = {
    "apiVersion": "litefs.io/v1alpha1",
    "kind": "LiteFSCluster",
    "metadata": {"name": "blog", "namespace": "web", "uid": "u-1", "generation": 1},
    "spec": {},
}


class Watched:
    """What the watches have of the API server: all, or nothing yet."""

    def __init__(self, *, knows: bool) -> None:
        self._knows = knows

    def cluster(self, key: tuple[str, str]) -> dict[str, Any] | None:
        return {**CLUSTER, "status": {}} if self._knows and key == ("web", "blog") else None

    def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        return {} if self._knows and namespace == "web" else None


class World:
    """An admission with what it asks."""

    def __init__(self, *, knows: bool = True, reads_namespaces: bool = True) -> None:
        self.kube = FakeKube()
        self.kube.put(CLUSTER_PATH, CLUSTER)
        self.kube.put("/api/v1/namespaces/web", {"metadata": {"name": "web", "labels": {}}})
        self.metrics = Metrics()
        self.leases: dict[str, str] = {}
        self.asked_for: list[tuple[ClusterKey, str]] = []
        self.events = EventRecorder(cast("Any", self.kube), "litefs-operator", "op-1")
        self.status = InjectionStatus(cast("Any", self.kube), self.events)
        self.admission = Admission(
            cast("Any", self.kube),
            cast("Any", Watched(knows=knows)),
            self.leases_of,
            Installation(image="litefs:1", consul_url="http://consul:8500"),
            self.status,
            self.metrics,
            reads_namespaces=reads_namespaces,
        )

    def leases_of(self, key: ClusterKey, controller: str) -> Mapping[str, str]:
        self.asked_for.append((key, controller))
        return self.leases

    def decide(self, pod: Pod, *, is_dry_run: bool = False, until: tuple[str, ...] = ()) -> Injected | None:
        """Decides, and lets the background write until the API server has heard of `until`."""

        async def run() -> Injected | None:
            tasks = [asyncio.create_task(part) for part in (self.events.run(), self.status.run())]
            try:
                return await self.admission.decide(PodReview(pod=pod, namespace="web", is_dry_run=is_dry_run))
            finally:
                await self.kube.until_written(*until)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        return asyncio.run(run())

    def refusals(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("litefs_operator_refusals_total", {"reason": reason}) or 0.0

    def blocked(self) -> tuple[str, str]:
        conditions = self.kube.objects[CLUSTER_PATH]["status"]["conditions"]
        return conditions[0]["status"], conditions[0]["reason"]

    def events_posted(self) -> list[Pod]:
        return [found for path, found in self.kube.objects.items() if "/events/" in path]


def test_a_pod_that_asks_gets_a_sidecar_without_a_question_to_the_api_server(pod: Pod) -> None:
    world = World()
    injected = world.decide(pod, until=("litefs-webhook",))
    assert injected is not None
    assert injected.pod["spec"]["initContainers"][0]["name"] == "litefs"
    assert [method for method, _ in world.kube.requests] == ["APPLY"]
    assert world.blocked() == ("False", "PodInjected")


def test_a_pod_that_does_not_ask_is_left_alone(pod: Pod) -> None:
    pod["metadata"]["annotations"]["litefs.io/inject"] = "false"
    world = World()
    assert world.decide(pod) is None
    assert world.kube.requests == []


def test_what_the_watches_have_not_told_yet_is_asked_for(pod: Pod) -> None:
    world = World(knows=False)
    assert world.decide(pod, is_dry_run=True) is not None
    assert world.kube.requests == [("GET", CLUSTER_PATH), ("GET", "/api/v1/namespaces/web")]


def test_an_operator_that_may_not_read_namespaces_does_not_ask_for_one(pod: Pod) -> None:
    world = World(knows=False, reads_namespaces=False)
    assert world.decide(pod, is_dry_run=True) is not None
    assert world.kube.requests == [("GET", CLUSTER_PATH)]


def test_a_pod_of_a_cluster_that_does_not_exist_is_refused(pod: Pod) -> None:
    world = World(knows=False)
    del world.kube.objects[CLUSTER_PATH]
    with pytest.raises(RefusedError, match="ClusterNotFound"):
        world.decide(pod)
    assert world.refusals("ClusterNotFound") == 1
    assert world.kube.written() == []


def test_a_pod_whose_lease_would_be_elsewhere_than_that_of_the_others_is_refused(pod: Pod) -> None:
    world = World()
    world.leases = {"blog-0": "http://consul:8500, key litefs/web/blog", "made-by-hand": ""}
    assert world.decide(pod, is_dry_run=True) is not None
    world.leases["blog-1"] = "http://another:8500, key litefs/web/blog"
    pod["metadata"]["ownerReferences"] = [{"uid": "other"}, {"uid": "s-1", "controller": True}]
    with pytest.raises(RefusedError, match=r"pod blog-1 is at http://another:8500.*\(LeaseElsewhere\)"):
        world.decide(pod)
    assert world.asked_for == [(("web", "blog"), ""), (("web", "blog"), "s-1")]


def test_a_pod_is_refused_while_the_api_server_does_not_answer(pod: Pod) -> None:
    world = World(knows=False)
    world.kube.is_down = True
    with pytest.raises(RefusedError, match="NotReadable"):
        world.decide(pod)


def test_a_refusal_is_an_event_and_a_condition(pod: Pod) -> None:
    world = World()
    pod["spec"]["hostNetwork"] = True
    with pytest.raises(RefusedError):
        world.decide(pod, until=("litefs-webhook", "/events"))
    assert world.blocked() == ("True", "HostNetwork")
    (event,) = world.events_posted()
    assert (event["reason"], event["type"], event["involvedObject"]["uid"]) == ("HostNetwork", "Warning", "u-1")


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_dry_run_leaves_no_trace(pod: Pod, is_refused: bool) -> None:
    world = World()
    pod["spec"]["hostNetwork"] = is_refused
    if is_refused:
        with pytest.raises(RefusedError):
            world.decide(pod, is_dry_run=True)
    else:
        world.decide(pod, is_dry_run=True)
    assert world.kube.requests == []


def test_a_spec_of_another_version_is_refused_in_words(pod: Pod) -> None:
    world = World(knows=False)
    world.kube.put(CLUSTER_PATH, {**CLUSTER, "spec": {"http": {"port": "x"}}})
    with pytest.raises(RefusedError, match=r"spec\.http\.port.*SpecNotReadable"):
        world.decide(pod, is_dry_run=True)


def test_a_condition_that_says_the_same_is_not_written_again(pod: Pod) -> None:
    world = World()

    async def run() -> None:
        tasks = [asyncio.create_task(part) for part in (world.events.run(), world.status.run())]
        for _ in range(3):
            await world.admission.decide(PodReview(pod=pod, namespace="web", is_dry_run=False))
            await world.kube.until_written("litefs-webhook")
        for task in tasks:
            task.cancel()

    asyncio.run(run())
    assert [method for method, _ in world.kube.written()] == ["APPLY"]

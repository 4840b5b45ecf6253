import asyncio
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest

from litefs_operator.events import FORGET_S, QUEUE_EVENTS, REPEAT_S, ClusterEvent, EventRecorder, EventType
from tests.unit.operator.fake_kube import FakeKube

CLUSTER: dict[str, Any] = {
    "apiVersion": "litefs.io/v1alpha1",
    "kind": "LiteFSCluster",
    "metadata": {"name": "blog", "namespace": "web", "uid": "u-1"},
}


def event(message: str = "it happened") -> ClusterEvent:
    return ClusterEvent(cluster=CLUSTER, type=EventType.WARNING, reason="Because", message=message)


def messages_of(kube: FakeKube) -> list[str]:
    return [found["message"] for found in kube.objects.copy().values()]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        for _ in itertools.count():
            if holds():
                return
            await asyncio.sleep(0.001)  # requests come from threads


def post(kube: FakeKube, *times: float, messages: list[str] | None = None) -> list[dict[str, Any]]:
    """Posts an event at each of the times, one after the other. Returns what the API server has then."""
    now = [0.0]
    texts = messages or ["it happened"] * len(times)

    async def run() -> None:
        recorder = EventRecorder(cast("Any", kube), "litefs-operator", "op-1", lambda: now[0])
        for number, (time, text) in enumerate(zip(times, texts, strict=True)):
            now[0] = time
            recorder.post(event(text))
            recorder.post(event(f"end of {number}"))
            task = asyncio.create_task(recorder.run())
            await until(lambda text=f"end of {number}": text in messages_of(kube))  # type: ignore[misc]
            task.cancel()

    asyncio.run(run())
    return [found for found in kube.objects.values() if not found["message"].startswith("end of")]


def test_an_event_names_its_cluster() -> None:
    (found,) = post(FakeKube(), 0.0)
    assert found["involvedObject"] == {
        "apiVersion": "litefs.io/v1alpha1",
        "kind": "LiteFSCluster",
        "name": "blog",
        "namespace": "web",
        "uid": "u-1",
    }
    assert (found["type"], found["reason"], found["message"], found["count"]) == (
        "Warning",
        "Because",
        "it happened",
        1,
    )


def test_a_repetition_is_counted_in_the_event_that_is_there() -> None:
    (found,) = post(FakeKube(), 0.0, 1.0, 2.0, REPEAT_S + 3.0)
    assert found["count"] == 4


def test_repetitions_within_a_minute_cause_no_request() -> None:
    kube = FakeKube()
    post(kube, 0.0, 1.0, 2.0)
    assert "PATCH" not in [method for method, _ in kube.requests]


def test_other_words_are_another_event() -> None:
    assert len(post(FakeKube(), 0.0, 0.0, messages=["one", "two"])) == 2


def test_after_an_hour_it_is_a_new_event() -> None:
    assert len(post(FakeKube(), 0.0, FORGET_S + 1.0)) == 2


def test_what_does_not_fit_into_the_queue_is_lost_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        recorder = EventRecorder(cast("Any", FakeKube()), "litefs-operator", "op-1")
        for _ in range(QUEUE_EVENTS + 1):
            recorder.post(event())

    asyncio.run(run())
    assert "is lost" in caplog.text


def test_an_api_server_that_is_down_costs_the_event_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    kube = FakeKube()
    kube.is_down = True

    async def run() -> None:
        recorder = EventRecorder(cast("Any", kube), "litefs-operator", "op-1")
        recorder.post(event())
        task = asyncio.create_task(recorder.run())
        await until(lambda: "is lost" in caplog.text)
        assert not task.done()
        task.cancel()

    asyncio.run(run())


def test_an_event_in_a_namespace_that_is_being_deleted_is_dropped_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kube = FakeKube()
    kube.ending_namespace = "web"

    async def run() -> None:
        recorder = EventRecorder(cast("Any", kube), "litefs-operator", "op-1")
        task = asyncio.create_task(recorder.run())
        recorder.post(event())
        await until(lambda: len(kube.requests) == 1)
        kube.ending_namespace = ""
        recorder.post(event("after it"))
        await until(lambda: messages_of(kube) == ["after it"])
        task.cancel()

    asyncio.run(run())
    assert caplog.records == []

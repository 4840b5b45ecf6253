import asyncio
import threading
from typing import Any, cast

import pytest

from litefs_operator import leader as leader_module
from litefs_operator.errors import KubeUnavailableError
from litefs_operator.leader import ACT_S, DURATION_S, Leader, Seen, may_take
from tests.unit.operator.fake_kube import FakeKube

PATH = "/apis/coordination.k8s.io/v1/namespaces/litefs/leases/litefs-operator"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def leader(kube: FakeKube, identity: str, clock: Clock) -> Leader:
    return Leader(cast("Any", kube), "litefs", "litefs-operator", identity, clock)


async def step(*leaders: Leader) -> list[bool]:
    for each in leaders:
        await each.step()
    return [each.leads() for each in leaders]


def holder(kube: FakeKube) -> str:
    return str(kube.objects[PATH]["spec"]["holderIdentity"])


@pytest.mark.parametrize(
    ("spec", "age_s", "expected"),
    [
        ({}, 0.0, True),
        ({"holderIdentity": ""}, 0.0, True),
        ({"holderIdentity": "me"}, 0.0, True),
        ({"holderIdentity": "other", "leaseDurationSeconds": 15}, 15.0, False),
        ({"holderIdentity": "other", "leaseDurationSeconds": 15}, 15.1, True),
        ({"holderIdentity": "other", "leaseDurationSeconds": 1}, 1.1, True),
        ({"holderIdentity": "other"}, DURATION_S + 0.1, True),
    ],
)
def test_who_may_take_the_lease(spec: dict[str, Any], age_s: float, expected: bool) -> None:
    assert may_take(spec, "me", Seen(fields=(), at=50.0), 50.0 + age_s) is expected


def test_the_first_one_leads_and_the_other_waits() -> None:
    kube, clock = FakeKube(), Clock()
    assert asyncio.run(step(leader(kube, "a", clock), leader(kube, "b", clock))) == [True, False]
    assert holder(kube) == "a"


def test_a_renewed_lease_is_not_taken_however_long_it_lasts() -> None:
    kube, clock = FakeKube(), Clock()
    a, b = leader(kube, "a", clock), leader(kube, "b", clock)
    for _ in range(20):
        clock.now += ACT_S - 1
        assert asyncio.run(step(a, b)) == [True, False]


def test_a_lease_that_is_not_renewed_is_taken_after_its_duration() -> None:
    kube, clock = FakeKube(), Clock()
    a, b = leader(kube, "a", clock), leader(kube, "b", clock)
    asyncio.run(step(a, b))
    clock.now += DURATION_S - 1
    assert asyncio.run(step(b)) == [False]
    clock.now += 2
    assert asyncio.run(step(b)) == [True]
    assert not a.leads()
    assert kube.objects[PATH]["spec"]["leaseTransitions"] == 2


def test_who_does_not_reach_the_api_server_stops_before_another_may_begin() -> None:
    kube, clock = FakeKube(), Clock()
    a = leader(kube, "a", clock)
    asyncio.run(step(a))
    kube.is_down = True
    clock.now += ACT_S - 0.1
    assert asyncio.run(step(a)) == [True]
    clock.now += 0.2
    assert asyncio.run(step(a)) == [False]
    assert ACT_S < DURATION_S


def test_of_two_that_take_an_expired_lease_one_gets_it() -> None:
    kube, clock = FakeKube(), Clock()
    asyncio.run(step(leader(kube, "gone", clock)))
    a, b = leader(kube, "a", clock), leader(kube, "b", clock)
    asyncio.run(step(a, b))
    clock.now += DURATION_S + 1
    assert sorted(asyncio.run(step(a, b))) == [False, True]


def test_a_released_lease_is_taken_at_once() -> None:
    kube, clock = FakeKube(), Clock()
    a, b = leader(kube, "a", clock), leader(kube, "b", clock)

    async def run() -> None:
        await step(a, b)
        await a.release()
        assert await step(b) == [True]
        assert await step(a) == [False]

    asyncio.run(run())
    assert holder(kube) == "b"


def test_a_standby_that_ends_leaves_the_lease_alone() -> None:
    kube, clock = FakeKube(), Clock()
    a, b = leader(kube, "a", clock), leader(kube, "b", clock)

    async def run() -> None:
        await step(a, b)
        await b.release()

    asyncio.run(run())
    assert holder(kube) == "a"


def test_what_acts_is_ended_with_the_release() -> None:
    kube = FakeKube()
    a = leader(kube, "a", Clock())

    async def run() -> list[str]:
        told: list[str] = []
        acting = asyncio.Event()

        async def lead() -> None:
            acting.set()
            try:
                await asyncio.Event().wait()
            finally:
                told.append("ended")

        running = asyncio.create_task(a.run(lead))
        async with asyncio.timeout(10):
            await acting.wait()
            await a.release()
            await running
        return told

    assert asyncio.run(run()) == ["ended"]
    assert holder(kube) == ""


def test_an_acting_part_that_fails_ends_the_operator() -> None:
    async def lead() -> None:
        raise ValueError("broken")

    with pytest.raises(RuntimeError, match="acting part"):
        asyncio.run(leader(FakeKube(), "a", Clock()).run(lead))


def test_what_acts_is_ended_at_the_deadline_although_a_renewal_still_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server takes requests and does not answer: the thread that renews hangs."""

    class Hanging(FakeKube):
        hangs = threading.Event()
        goes_on = threading.Event()

        def replace(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
            self.hangs.set()
            self.goes_on.wait(20)
            raise KubeUnavailableError("no answer")

    monkeypatch.setattr(leader_module, "RENEW_S", 0.01)
    monkeypatch.setattr(leader_module, "ACT_S", 0.2)
    kube = Hanging()
    a = Leader(cast("Any", kube), "litefs", "litefs-operator", "a")

    async def run() -> None:
        ended = asyncio.Event()

        async def lead() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        running = asyncio.create_task(a.run(lead))
        try:
            async with asyncio.timeout(20):
                await asyncio.to_thread(kube.hangs.wait, 20)
                await ended.wait()
                assert not kube.goes_on.is_set()
        finally:
            kube.goes_on.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())

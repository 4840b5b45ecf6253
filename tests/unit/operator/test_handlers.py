import asyncio
import logging
from typing import Any, cast

import jsonpatch
import kopf
import pytest

from litefs_operator.handlers import INJECT, Handlers, ReportedElsewhere
from litefs_operator.webhook_server import WebhookServer
from tests.unit.operator.test_admission import World

Pod = dict[str, Any]


def make(world: World) -> Handlers:
    return Handlers(world.admission, cast("WebhookServer", None))


def call(world: World, pod: Pod) -> tuple[Pod, list[str]]:
    """Returns the pod as the API server would have it after the answer, and the warnings."""
    body = kopf.Body(cast("Any", pod))
    patch = kopf.Patch(body=body)
    warnings: list[str] = []
    asyncio.run(make(world).inject(body=body, namespace="web", patch=patch, warnings=warnings, dryrun=True))
    changed: Pod = jsonpatch.apply_patch(pod, cast("Any", patch.as_json_patch()))
    return changed, warnings


def test_the_patch_that_kopf_makes_gives_the_injected_pod(pod: Pod) -> None:
    world = World()
    injected = world.decide(pod, is_dry_run=True)
    assert injected is not None
    changed, warnings = call(world, pod)
    assert changed == injected.pod
    assert warnings == []


def test_a_second_call_changes_nothing(pod: Pod) -> None:
    world = World()
    changed, _ = call(world, pod)
    assert call(world, changed)[0] == changed


def test_warnings_are_passed_on(pod: Pod) -> None:
    pod["spec"]["shareProcessNamespace"] = True
    assert "shareProcessNamespace" in call(World(), pod)[1][0]


def test_a_pod_without_init_containers_and_volumes_can_be_patched(pod: Pod) -> None:
    world = World(knows=False)
    cluster = world.kube.objects["/apis/litefs.io/v1alpha1/namespaces/web/litefsclusters/blog"]
    cluster["spec"] = {"data": {"allowEphemeral": True}}
    del pod["spec"]["volumes"]
    pod["metadata"].pop("labels")
    changed, warnings = call(world, pod)
    assert changed["spec"]["initContainers"][0]["name"] == "litefs"
    assert "emptyDir" in warnings[0]


def test_a_refusal_is_a_denial_with_its_reason(pod: Pod) -> None:
    pod["spec"]["hostNetwork"] = True
    with pytest.raises(kopf.AdmissionError, match=r"\(HostNetwork\)") as raised:
        call(World(), pod)
    assert raised.value.code == 403


def test_a_pod_that_cannot_be_looked_at_is_denied_too(pod: Pod, caplog: pytest.LogCaptureFixture) -> None:
    pod["spec"]["containers"] = [{"no": "name"}]
    with pytest.raises(kopf.AdmissionError, match="the operator failed"):
        call(World(), pod)
    assert "could not be looked at" in caplog.text


def test_kopf_watches_nothing() -> None:
    """Its handlers of changes would put finalizers and annotations on objects, its indexes keep what was deleted."""
    registry = make(World()).registry()
    for handlers in (registry._indexing, registry._watching, registry._changing, registry._spawning):
        assert not handlers.get_all_handlers()
    assert {handler.id for handler in registry._webhooks.get_all_handlers()} == {INJECT}


@pytest.mark.parametrize(
    ("level", "text", "expected"),
    [
        (logging.INFO, "Activity 'start' succeeded.", False),
        (logging.ERROR, "Webhook 'inject' failed permanently: no", False),
        (logging.ERROR, "Activity 'start' failed with an exception.", True),
    ],
)
def test_of_kopfs_lines_those_remain_that_nobody_else_writes(level: int, text: str, expected: bool) -> None:
    record = logging.LogRecord("kopf.objects", level, "f", 1, text, (), None)
    assert ReportedElsewhere().filter(record) is expected

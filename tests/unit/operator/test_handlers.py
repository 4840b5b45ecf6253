import asyncio
import logging
from typing import Any, cast

import jsonpatch
import kopf
import pytest

from litefs_operator.handlers import INJECT, Handlers, ReportedElsewhere
from litefs_operator.known import Known, kept_of
from litefs_operator.webhook_server import WebhookServer
from tests.unit.operator.test_admission import World

Pod = dict[str, Any]


def make(world: World) -> Handlers:
    return Handlers(world.admission, Known(), cast("WebhookServer", None), lambda _key: None)


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
    world = World(indexed=False)
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


def test_no_handler_writes_to_what_it_watches() -> None:
    """Only indexes, events and the webhook: the others would put finalizers and annotations on objects."""
    registry = make(World()).registry(with_namespaces=True)
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert {handler.id for handler in registry._indexing.get_all_handlers()} == {"clusters", "namespaces"}
    assert {handler.id for handler in registry._webhooks.get_all_handlers()} == {INJECT}


def test_without_the_right_to_watch_namespaces_none_is_watched() -> None:
    registry = make(World()).registry(with_namespaces=False)
    assert {handler.id for handler in registry._indexing.get_all_handlers()} == {"clusters"}


def test_what_is_kept_of_a_cluster_is_what_is_read() -> None:
    metadata = {"name": "blog", "namespace": "web", "uid": "u", "generation": 2, "managedFields": ["much"]}
    kept = kept_of({"metadata": metadata, "spec": {"a": 1}, "status": {"b": 2}})
    assert kept["metadata"] == {"name": "blog", "namespace": "web", "uid": "u", "generation": 2}
    assert (kept["kind"], kept["spec"], kept["status"]) == ("LiteFSCluster", {"a": 1}, {"b": 2})


@pytest.mark.parametrize(
    ("level", "text", "expected"),
    [
        (logging.INFO, "Handler 'cluster_event' succeeded.", False),
        (logging.ERROR, "Webhook 'inject' failed permanently: no", False),
        (logging.ERROR, "Handler 'cluster_event' failed with an exception.", True),
    ],
)
def test_of_kopfs_lines_those_remain_that_nobody_else_writes(level: int, text: str, expected: bool) -> None:
    record = logging.LogRecord("kopf.objects", level, "f", 1, text, (), None)
    assert ReportedElsewhere().filter(record) is expected

"""The examples: Kubernetes knows their fields, the webhook takes their pods, and their programs are Python."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from charts.generated import CHART
from litefs.version import VERSION
from litefs_operator import names
from litefs_operator.crd import ClusterSpec
from litefs_operator.injection import Cluster, Injected, Installation, inject
from litefs_operator.schema import parse
from tests.unit.charts.rendering import NEWEST, OLDEST, Manifest

EXAMPLES = sorted((CHART.parents[1] / "manifests" / "examples").glob("*.yaml"))
INSTALLATION = Installation(image="litefs:1", consul_url="http://litefs-consul.litefs-system.svc:8500")
IMAGES = {"python:3.12-slim", f"litefs:{VERSION}"}
"""What e2e replaces."""

MANIFESTS = {path.stem: [one for one in yaml.safe_load_all(path.read_text()) if one] for path in EXAMPLES}
CLUSTERS = {
    one["metadata"]["name"]: parse(ClusterSpec, one["spec"])
    for manifests in MANIFESTS.values()
    for one in manifests
    if one["kind"] == names.KIND
}
examples = pytest.mark.parametrize("name", MANIFESTS)


def pods(name: str) -> Iterator[Manifest]:
    """The pods of an example as they come to the webhook: their controllers have added volumes and owners."""
    for one in MANIFESTS[name]:
        spec: Any = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" not in spec:
            continue
        template = yaml.safe_load(yaml.safe_dump(spec["template"]))
        volumes = template["spec"].setdefault("volumes", [])
        for claim in spec.get("volumeClaimTemplates", []):
            volume = claim["metadata"]["name"]
            volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": f"{volume}-0"}})
        if one["kind"] == "StatefulSet":
            template["spec"]["subdomain"] = spec["serviceName"]
        if one["kind"] in {"Job", "CronJob"}:
            template["metadata"]["ownerReferences"] = [
                {"kind": "Job", "apiVersion": "batch/v1", "name": "j", "uid": "u"}
            ]
        yield {"apiVersion": "v1", "kind": "Pod", **template}


def injected(pod: Manifest) -> Injected:
    name = pod["metadata"]["annotations"][names.CLUSTER]
    return inject(pod, Cluster(name=name, namespace="web", spec=CLUSTERS[name], namespace_labels={}), INSTALLATION)


@examples
@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_kubernetes_knows_every_field(name: str, kubernetes: str) -> None:
    for manifest in MANIFESTS[name]:
        if manifest["kind"] != names.KIND:
            kubernetes_validate.validate(manifest, kubernetes.rpartition(".")[0], strict=True)


@examples
def test_the_webhook_takes_every_pod(name: str) -> None:
    found = list(pods(name))
    assert bool(found) == (name != "network-policy")
    for pod in found:
        patched = injected(pod).pod
        assert patched["spec"]["initContainers"][0]["name"] == names.CONTAINER
        kubernetes_validate.validate(patched, NEWEST.rpartition(".")[0], strict=True)


@examples
def test_nothing_is_warned_of_but_data_that_a_reader_may_lose(name: str) -> None:
    warnings = [warning for pod in pods(name) for warning in injected(pod).warnings]
    assert len(warnings) == (1 if name == "read-replicas" else 0)


def test_only_the_writer_and_the_migration_can_become_primary_beside_the_stateful_sets() -> None:
    def is_candidate(pod: Manifest) -> bool:
        return '"candidate": true' in injected(pod).pod["metadata"]["annotations"][names.CONFIG]

    assert {name: [is_candidate(pod) for pod in pods(name)] for name in MANIFESTS} == {
        "external-consul": [True],
        "migrate-job": [True],
        "network-policy": [],
        "read-replicas": [True, False],
        "report-cronjob": [False],
        "web-statefulset": [True],
    }


@examples
def test_programs_are_python_and_images_those_that_e2e_replaces(name: str) -> None:
    for pod in pods(name):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert container["image"] in IMAGES
            if "-c" in container.get("command", []):
                compile(container["args"][0], name, "exec")
    for one in MANIFESTS[name]:
        for key, text in one.get("data", {}).items():
            compile(text, key, "exec")

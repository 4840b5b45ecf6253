"""Pods that end, and pods that are no longer wanted in the cluster."""

import json
from typing import Any

import pytest

from e2e import workloads
from e2e.blog import PODS, Blog
from e2e.commands import wait_until
from e2e.installation import Installation
from e2e.kubectl import READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.workloads import CLUSTER, DATABASE


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation) -> Blog:
    blog = Blog(kubectl, target.application_image)
    blog.start(replicas=1, data={"allowEphemeral": True})
    return blog


def job(image: str) -> dict[str, Any]:
    pod = workloads.pod("count", image, asks=workloads.annotations())
    pod["spec"]["containers"][0]["command"] = ["sqlite3", DATABASE, "select 'rows: ' || count(*) from t"]
    template = {"metadata": pod["metadata"], "spec": pod["spec"]}
    template["metadata"].pop("name")
    spec = {"backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "count"}, "spec": spec}


def test_a_job_reads_the_database_and_completes(blog: Blog) -> None:
    blog.send("one row")
    blog.kubectl.apply(job(blog.image))
    wait = ["wait", "--for=condition=complete", "job/count", f"--timeout={READY_TIMEOUT_S:.0f}s"]
    blog.kubectl(*wait, timeout_s=READY_TIMEOUT_S + 10)
    assert blog.kubectl("logs", "job/count", "-c", "application").strip() == "rows: 1"


def test_its_pod_is_no_node_of_the_cluster(blog: Blog) -> None:
    blog.wait_running(1)
    assert blog.primary() == PODS[0]

    def nodes() -> list[str]:
        return [node["pod"] for node in blog.status()["nodes"]]

    # Listed as a Job's while it ran.
    wait_until("the end of the Job's pod in the status", lambda: nodes() == [PODS[0]], timeout_s=READY_TIMEOUT_S)


def test_without_the_annotation_the_next_pod_has_no_sidecar(blog: Blog) -> None:
    uid = blog.uid(PODS[0])
    removed = {"spec": {"template": {"metadata": {"annotations": {"litefs.io/inject": "false"}}}}}
    blog.kubectl("patch", "statefulset", CLUSTER, "--type=merge", "-p", json.dumps(removed))
    wait_until("another pod", lambda: blog.uid(PODS[0]) not in {"", uid}, timeout_s=READY_TIMEOUT_S)
    spec = blog.kubectl.get("pod", PODS[0])["spec"]
    assert "initContainers" not in spec
    assert "litefs-mount" not in {volume["name"] for volume in spec["volumes"]}

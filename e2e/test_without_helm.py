"""manifests/ as they are, but for the names of images: the installation without Helm, and every example on it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import pytest

from e2e import manifests as handwritten
from e2e import workloads
from e2e.commands import wait_until
from e2e.creations import Creations
from e2e.errors import CommandError
from e2e.figures import Figures
from e2e.installation import Installation
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.target import Target
from e2e.tools import REPOSITORY
from litefs_operator import certificate

CERTIFICATE = "litefs-webhook-operator-tls"
MANIFESTS = REPOSITORY / "manifests"


class Manifests:
    """The files, with the images of the target, in one namespace."""

    def __init__(self, kubectl: Kubectl, target: Target) -> None:
        self._kubectl = kubectl
        self._images = {
            "litefs-operator:0.1.0": target.operator_image,
            "litefs:0.1.0": target.sidecar_image,
            "hashicorp/consul:1.22.7": target.consul_image,
            "python:3.12-slim": target.application_image,
        }

    def apply(self, name: str) -> None:
        """Applies one file."""
        self._kubectl("apply", "-f", "-", stdin=self._text(name))

    def delete(self, name: str) -> None:
        """Deletes what is in one file, and returns when it is gone."""
        words = ["delete", "--ignore-not-found", f"--timeout={GONE_TIMEOUT_S:.0f}s", "-f", "-"]
        self._kubectl(*words, stdin=self._text(name), timeout_s=GONE_TIMEOUT_S + 10)

    def _text(self, name: str) -> str:
        text = (MANIFESTS / name).read_text()
        for image, replacement in self._images.items():
            text = text.replace(f" {image}\n", f" {replacement}\n").replace(f"={image}\n", f"={replacement}\n")
        return text


@pytest.fixture(scope="module")
def manifests(kubectl: Kubectl, target: Target, idle_installation: Installation) -> Iterator[Manifests]:
    """LiteFS, installed from manifests/install.yaml."""
    if idle_installation.is_there():
        idle_installation.uninstall()
    everything = Manifests(idle_installation.kubectl, target)
    try:
        everything.apply("install.yaml")
        idle_installation.wait_operator()
        yield Manifests(kubectl, target)
    finally:
        everything.delete("install.yaml")


@pytest.fixture(scope="module", autouse=True)
def creations(
    kubectl: Kubectl, target: Target, manifests: Manifests, idle_installation: Installation
) -> Iterator[Creations]:
    """Pods that are created during all of these tests, while the webhook's certificate is renewed."""
    kubectl.apply(workloads.cluster("created", data={"allowEphemeral": True}), workloads.script())
    creations = Creations(kubectl, target.application_image, cluster="created", pause_s=0.5)
    with creations.going_on():
        renew_certificate(idle_installation)
        yield creations


def renew_certificate(installation: Installation) -> None:
    """Puts into the Secret what one of the operator's replicas would when the certificate is about to end."""
    secret = installation.kubectl.get("secret", CERTIFICATE)
    before = certificate.read_bundle(secret["data"])
    host = f"litefs-webhook.{installation.kubectl.namespace}.svc"
    secret["data"] = certificate.make_bundle(host, datetime.now(UTC), before=before).data()
    installation.kubectl("replace", "-f", "-", stdin=json.dumps(secret))


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, manifests: Manifests) -> str:
    """The web application of the examples; returns its name."""
    manifests.apply("examples/web-statefulset.yaml")
    wait_cluster(kubectl, "blog", "3/3")
    return "blog"


def wait_cluster(kubectl: Kubectl, name: str, nodes: str) -> None:
    def row() -> list[str]:
        return kubectl("get", "lfs", name, "--no-headers").split()

    wait_until(f"{name} Running with {nodes}", lambda: {"Running", nodes} <= set(row()), timeout_s=READY_TIMEOUT_S)


def request(kubectl: Kubectl, pod: str, url: str, *more: str) -> str:
    """What a URL answers to a pod of the application."""
    fetch = f"from urllib.request import urlopen; print(urlopen({url!r}, {', '.join(more)}).read().decode())"
    return kubectl.execute(pod, "web", ["python3", "-c", fetch]).strip()


def test_the_web_application_writes_through_rw_and_reads_anywhere(kubectl: Kubectl, blog: str) -> None:
    assert request(kubectl, "blog-0", "http://blog-rw/", "data=b'hello'").startswith("written by blog-")

    def is_everywhere() -> bool:
        try:
            return all(
                "hello" in request(kubectl, "blog-0", f"http://blog-{service}/") for service in ("rw", "ro", "r")
            )
        except CommandError:
            return False

    wait_until("the post at each Service", is_everywhere, timeout_s=READY_TIMEOUT_S)


def test_a_job_changes_the_schema(kubectl: Kubectl, manifests: Manifests, blog: str) -> None:
    manifests.apply("examples/migrate-job.yaml")
    wait_job(kubectl, "blog-migrate")
    script = "import sqlite3; print(sqlite3.connect('/litefs/data/blog.db').execute('select at from posts').fetchall())"
    for pod in ("blog-0", "blog-1", "blog-2"):
        assert "None" in kubectl.execute(pod, "web", ["python3", "-c", script])
    wait_cluster(kubectl, blog, "3/3")
    assert request(kubectl, "blog-0", "http://blog-rw/", "data=b'migrated'").startswith("written by blog-")


def test_a_cron_job_reads(kubectl: Kubectl, manifests: Manifests, blog: str) -> None:
    manifests.apply("examples/report-cronjob.yaml")
    kubectl("create", "job", "report-now", "--from=cronjob/blog-report")
    wait_job(kubectl, "report-now")
    assert kubectl("logs", "job/report-now", "-c", "report").startswith("posts: ")


def wait_job(kubectl: Kubectl, name: str) -> None:
    wait = ["wait", "--for=condition=Complete", f"job/{name}", f"--timeout={READY_TIMEOUT_S:.0f}s"]
    kubectl(*wait, timeout_s=READY_TIMEOUT_S + 10)


def test_read_replicas_follow_the_only_candidate(kubectl: Kubectl, manifests: Manifests) -> None:
    manifests.apply("examples/read-replicas.yaml")
    wait_cluster(kubectl, "wiki", "3/3")
    writer = kubectl("get", "pods", "-l", "tier=writer", "-o", "jsonpath={.items[*].metadata.name}")
    assert kubectl.get("lfs", "wiki")["status"]["primary"] == writer
    readers = kubectl("get", "pods", "-l", "tier=reader", "-o", "jsonpath={.items[*].metadata.name}").split()

    def has_read(pod: str) -> bool:
        return kubectl.log(pod, "reader").rstrip().endswith("')")

    for reader in readers:
        wait_until(f"rows in {reader}", partial(has_read, reader), timeout_s=READY_TIMEOUT_S)
    manifests.delete("examples/read-replicas.yaml")


def test_a_cluster_of_its_own_consul(kubectl: Kubectl, target: Target, manifests: Manifests) -> None:
    elsewhere = Kubectl(target.kubectl, target.kubeconfig, "consul")
    elsewhere("create", "namespace", "consul")
    try:
        elsewhere.apply(*handwritten.consul("consul-server", target.consul_image))
        elsewhere.wait_ready("consul-server")
        manifests.apply("examples/external-consul.yaml")
        wait_cluster(kubectl, "shop", "2/2")
        primary = kubectl.get("lfs", "shop")["status"]["primary"]
        wait_until("an order", lambda: "ordered" in kubectl.log(primary, "shop"), timeout_s=READY_TIMEOUT_S)
        manifests.delete("examples/external-consul.yaml")
    finally:
        elsewhere("delete", "namespace", "consul", "--wait=false")


def test_a_renewed_certificate_is_taken_into_use_and_no_pod_is_refused(
    idle_installation: Installation, creations: Creations, figures: Figures
) -> None:
    operators = idle_installation.kubectl("get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "name")

    def is_in_use() -> bool:
        logs = [idle_installation.kubectl("logs", pod) for pod in operators.split()]
        return all(log.count("is in use") == 2 for log in logs)

    wait_until("the new certificate in use", is_in_use, timeout_s=READY_TIMEOUT_S)
    creations.wait_enough()
    figures.note(f"certificate renewed: {len(creations.refusals)} of {creations.done_n} pods refused")
    assert creations.refusals == []

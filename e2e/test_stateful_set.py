"""A StatefulSet of three unmodified applications: one database, in each of them."""

import json

import pytest

from e2e import workloads
from e2e.blog import PODS, Blog
from e2e.errors import CommandError
from e2e.figures import Figures
from e2e.installation import Installation
from e2e.kubectl import Kubectl
from e2e.target import Target
from e2e.workloads import DATABASE, SCRIPT

TIMED_ROWS = 200


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, installation: Installation, figures: Figures) -> Blog:
    blog = Blog(kubectl, target.application_image)
    figures("StatefulSet of three, one after the other, created → cluster Ready", blog.start())
    return blog


def test_the_first_open_succeeds_in_each_pod(blog: Blog) -> None:
    for pod in PODS:
        assert blog.kubectl("logs", pod, "-c", "application").splitlines() == ["first open: ok"]
        assert blog.kubectl.restarts(pod) == {"litefs": 0, "application": 0}


def test_rows_written_through_the_service_appear_in_each_pod(blog: Blog, figures: Figures) -> None:
    assert blog.send("seen everywhere") == blog.primary()
    waited = max(blog.wait_rows(pod, "seen everywhere", 1) for pod in PODS)
    # The limit is for people; what a transaction takes is measured below, without kubectl in between.
    assert waited < 10
    figures("row written through -rw → found in all pods by kubectl exec", waited)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_every_journal_mode_is_replicated(blog: Blog, figures: Figures, journal_mode: str) -> None:
    primary, (replica, other) = blog.primary(), blog.replicas()
    assert blog.sql(primary, f"pragma journal_mode = {journal_mode}") == journal_mode
    lags_ms = _measure_lag(blog, primary, replica, prefix=journal_mode)
    assert len(lags_ms) == TIMED_ROWS
    middle, late = lags_ms[TIMED_ROWS // 2], lags_ms[TIMED_ROWS * 99 // 100]
    figures.note(f"commit → visible in another pod, {journal_mode}: p50 {middle:.2f} ms, p99 {late:.2f} ms")
    blog.wait_rows(other, f"{journal_mode}%", TIMED_ROWS)
    for pod in PODS:
        assert blog.sql(pod, "pragma integrity_check") == "ok"


def _measure_lag(blog: Blog, primary: str, replica: str, *, prefix: str) -> list[float]:
    """Returns for each row after how many milliseconds it was visible, sorted."""
    what = [DATABASE, prefix, str(TIMED_ROWS)]
    watch = ["exec", replica, "-c", "application", "--", "python3", SCRIPT, "watch", *what]
    with blog.kubectl.running(*watch) as output:
        assert output.readline() == "watching\n"
        committed = json.loads(blog.kubectl.execute(primary, "application", ["python3", SCRIPT, "insert", *what]))
        seen = json.loads(output.readline())
    return sorted((seen[text] - at_ns) / 1e6 for text, at_ns in committed.items())


def test_a_replica_refuses_to_write(blog: Blog) -> None:
    before = blog.sql(blog.primary(), "select count(*) from t")
    for replica in blog.replicas():
        with pytest.raises(CommandError, match="readonly database"):
            blog.sql(replica, "insert into t values ('never', 0)")
    assert blog.sql(blog.primary(), "select count(*) from t") == before


def test_the_cluster_is_shown_as_it_is(blog: Blog) -> None:
    blog.wait_running()
    row = blog.kubectl("get", "litefsclusters", workloads.CLUSTER, "--no-headers").split()
    assert row[1:5] == ["True", "Running", blog.primary(), "3/3"]
    nodes = {node["pod"]: node["role"] for node in blog.status()["nodes"]}
    assert nodes == {pod: "primary" if pod == blog.primary() else "replica" for pod in PODS}
    labelled = blog.kubectl("get", "pods", "-l", "litefs.io/role=primary", "-o", "name").split()
    assert labelled == [f"pod/{blog.primary()}"]


def test_services_have_the_pods_that_their_names_say(blog: Blog) -> None:
    assert blog.addresses("rw") == {blog.address(blog.primary())}
    assert blog.addresses("ro") == {blog.address(pod) for pod in blog.replicas()}
    assert blog.addresses("r") == {blog.address(pod) for pod in PODS}


def test_every_node_can_be_lost_but_one_at_a_time(blog: Blog) -> None:
    budget = blog.kubectl.get("poddisruptionbudget", workloads.CLUSTER)
    assert budget["spec"]["minAvailable"] == 2


def test_a_pod_of_the_stateful_set_cannot_go_to_another_cluster_while_the_others_run(blog: Blog) -> None:
    blog.kubectl.apply(workloads.cluster("renamed", data={"allowEphemeral": True}))
    pod = workloads.pod("renamed", blog.image, asks=workloads.annotations("renamed"))
    pod["metadata"]["ownerReferences"] = blog.kubectl.get("pod", PODS[0])["metadata"]["ownerReferences"]
    with pytest.raises(CommandError, match=r"so there would be two primaries.*\(LeaseElsewhere\)"):
        blog.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    del pod["metadata"]["ownerReferences"]
    blog.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))

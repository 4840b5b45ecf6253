import copy
from typing import Any, cast

import pytest

from litefs_operator.errors import KubeError, KubeUnavailableError
from litefs_operator.metrics import Metrics
from litefs_operator.reconcile.act import Actor
from litefs_operator.reconcile.decide import decide
from litefs_operator.reconcile.observed import KeptBudget, Memory
from tests.unit.operator.fake_kube import FakeKube
from tests.unit.operator.reconcile.seen import CLUSTER, held_by, member, seen

SPACE = "/api/v1/namespaces/web"
BUDGETS = "/apis/policy/v1/namespaces/web/poddisruptionbudgets"
PATH = "/apis/litefs.io/v1alpha1/namespaces/web/litefsclusters/blog"


def make(kube: FakeKube) -> Actor:
    return Actor(cast("Any", kube), b"k" * 32, Metrics())


@pytest.fixture
def kube() -> FakeKube:
    kube = FakeKube()
    for index in range(3):
        kube.put(f"{SPACE}/pods/blog-{index}", {"metadata": {"name": f"blog-{index}", "labels": {"app": "blog"}}})
    kube.put(PATH, CLUSTER)
    return kube


def test_what_new_connections_wait_for_comes_first(kube: FakeKube) -> None:
    actor = make(kube)
    actor.carry_out(CLUSTER, decide(seen(services={}, budgets=(), memory=Memory())))
    kube.requests.clear()
    decision = decide(seen(members=[member(0), member(1, node="", role=""), member(2)], lease=held_by(1)))
    outcome = actor.carry_out(CLUSTER, decision)
    assert (outcome.failures, outcome.taken) == ((), ())
    assert kube.written() == [
        ("PATCH", f"{SPACE}/pods/blog-1"),
        ("PATCH", f"{SPACE}/services/blog-rw"),
        ("PATCH", f"{SPACE}/pods/blog-0"),
        ("PATCH", f"{SPACE}/pods/blog-1"),
    ]
    assert kube.objects[f"{SPACE}/pods/blog-1"]["metadata"]["labels"] == {
        "app": "blog",
        "litefs.io/node": "ID1",
        "litefs.io/role": "primary",
    }
    assert kube.objects[f"{SPACE}/services/blog-rw"]["spec"]["selector"]["litefs.io/node"] == "ID1"


def test_a_new_cluster_gets_everything(kube: FakeKube) -> None:
    outcome = make(kube).carry_out(CLUSTER, decide(seen(services={}, budgets=(), memory=Memory())))
    assert (outcome.failures, outcome.taken) == ((), ())
    made = {path.rpartition("/")[2] for path in kube.objects if "/services/" in path}
    assert made == {"blog-rw", "blog-ro", "blog-r", "blog-nodes"}
    assert kube.objects[f"{BUDGETS}/blog"]["spec"]["minAvailable"] == 2


def test_a_namespace_that_is_being_deleted_is_no_failure(kube: FakeKube) -> None:
    kube.ending_namespace = "web"
    actor = make(kube)
    actor.create_token(CLUSTER)
    outcome = actor.carry_out(CLUSTER, decide(seen(services={}, budgets=(), memory=Memory())))
    assert (outcome.failures, outcome.taken) == ((), ())
    assert len([path for method, path in kube.written() if method == "POST"]) > 4


def test_a_second_time_finds_what_the_watch_does_not_show_yet(kube: FakeKube) -> None:
    decision = decide(seen(services={}, budgets=(), memory=Memory()))
    make(kube).carry_out(CLUSTER, decision)
    outcome = make(kube).carry_out(CLUSTER, decision)
    assert (outcome.failures, outcome.taken) == ((), ())


def test_a_service_whose_label_was_changed_is_found_again_and_set(kube: FakeKube) -> None:
    make(kube).carry_out(CLUSTER, decide(seen(services={}, memory=Memory())))
    changed = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "another"}}, "spec": {"selector": {}}}
    kube.patch(f"{SPACE}/services/blog-rw", changed)
    outcome = make(kube).carry_out(CLUSTER, decide(seen(services={}, memory=Memory(), lease=held_by(1))))
    assert (outcome.failures, outcome.taken) == ((), ())
    service = kube.objects[f"{SPACE}/services/blog-rw"]
    assert service["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "litefs-operator"
    assert service["spec"]["selector"]["litefs.io/node"] == "ID1"


def test_what_a_deleted_cluster_of_the_name_left_is_taken_over_before_the_watch_shows_it(kube: FakeKube) -> None:
    make(kube).carry_out(CLUSTER, decide(seen(services={}, budgets=(), memory=Memory())))
    again = {**CLUSTER, "metadata": {**CLUSTER["metadata"], "uid": "u-2"}}
    outcome = make(kube).carry_out(again, decide(seen(cluster=again, services={}, budgets=(), memory=Memory())))
    assert (outcome.failures, outcome.taken) == ((), ())
    for path in (f"{SPACE}/services/blog-rw", f"{BUDGETS}/blog"):
        assert [owner["uid"] for owner in kube.objects[path]["metadata"]["ownerReferences"]] == ["u-2"]


def test_what_belongs_to_somebody_else_is_told_and_left_alone(kube: FakeKube) -> None:
    theirs = {"metadata": {"name": "blog-ro"}, "spec": {"selector": {"app": "other"}}}
    kube.put(f"{SPACE}/services/blog-ro", copy.deepcopy(theirs))
    outcome = make(kube).carry_out(CLUSTER, decide(seen(services={}, memory=Memory())))
    assert outcome.taken == ("service blog-ro",)
    assert kube.objects[f"{SPACE}/services/blog-ro"]["spec"] == theirs["spec"]
    assert f"{SPACE}/services/blog-nodes" in kube.objects


def test_a_budget_is_set_and_deleted(kube: FakeKube) -> None:
    kube.put(f"{BUDGETS}/blog", {"metadata": {"name": "blog"}, "spec": {"minAvailable": 2}})
    four = decide(seen(members=map(member, range(4))))
    make(kube).carry_out(CLUSTER, four)
    assert kube.objects[f"{BUDGETS}/blog"]["spec"]["minAvailable"] == 3
    make(kube).carry_out(CLUSTER, decide(seen(spec={"disruptionBudget": False})))
    assert f"{BUDGETS}/blog" not in kube.objects


def test_a_budget_of_our_name_that_is_not_ours_is_left_alone(kube: FakeKube) -> None:
    theirs = {"selector": {"matchLabels": {"app": "other"}}, "minAvailable": 1}
    kube.put(f"{BUDGETS}/blog", {"metadata": {"name": "blog"}, "spec": theirs})
    budget = KeptBudget(namespace="web", name="blog", owner="", is_made_here=False, spec=theirs)
    outcome = make(kube).carry_out(CLUSTER, decide(seen(budgets=(budget,))))
    assert outcome.taken == ("budget blog",)
    assert kube.objects[f"{BUDGETS}/blog"]["spec"] == theirs


def test_a_pod_that_went_meanwhile_is_no_failure(kube: FakeKube) -> None:
    del kube.objects[f"{SPACE}/pods/blog-0"]
    kube.put(f"{SPACE}/services/blog-rw", {"metadata": {"name": "blog-rw"}, "spec": {"selector": {}}})
    outcome = make(kube).carry_out(CLUSTER, decide(seen(lease=held_by(1))))
    assert outcome.failures == ()
    assert kube.objects[f"{SPACE}/pods/blog-1"]["metadata"]["labels"]["litefs.io/role"] == "primary"


def test_a_refused_request_does_not_keep_the_others_from_being_made(kube: FakeKube) -> None:
    class Forbidding(FakeKube):
        def create(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
            if path.endswith("/services"):
                raise KubeError(403, "services is forbidden")
            return super().create(path, manifest)

    forbidding = Forbidding()
    outcome = make(forbidding).carry_out(CLUSTER, decide(seen(services={}, budgets=(), memory=Memory())))
    assert len(outcome.failures) == 4
    assert "service blog-rw: services is forbidden" in outcome.failures
    assert f"{BUDGETS}/blog" in forbidding.objects


def test_an_api_server_that_does_not_answer_ends_it(kube: FakeKube) -> None:
    kube.is_down = True
    with pytest.raises(KubeUnavailableError):
        make(kube).carry_out(CLUSTER, decide(seen(lease=held_by(1))))


def test_a_token_is_created_once_and_never_changed(kube: FakeKube) -> None:
    actor = make(kube)
    actor.create_token(CLUSTER)
    secret = copy.deepcopy(kube.objects[f"{SPACE}/secrets/blog-litefs-token"])
    assert secret["stringData"]["token"] == actor.token(("web", "blog"))
    make(kube).create_token(CLUSTER)
    assert kube.objects[f"{SPACE}/secrets/blog-litefs-token"] == secret


def test_the_status_is_written_under_a_name_of_its_own(kube: FakeKube) -> None:
    blocked = {"type": "InjectionBlocked", "status": "True", "reason": "HostNetwork"}
    kube.put(PATH, {**CLUSTER, "status": {"conditions": [blocked]}})
    make(kube).write_status(CLUSTER, decide(seen()).status)
    status = kube.objects[PATH]["status"]
    assert status["phase"] == "Running"
    assert blocked in status["conditions"]
    assert kube.written() == [("APPLY", f"{PATH}/status by litefs-operator")]

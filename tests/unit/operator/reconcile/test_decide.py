import dataclasses
from typing import Any

import pytest

from litefs_operator.consul import Holder
from litefs_operator.node_client import Silence
from litefs_operator.reconcile.decide import FEWER_HOLD_S, BudgetChange, Decision, decide
from litefs_operator.reconcile.observed import (
    FRESH_S,
    KeptBudget,
    LeaseState,
    LeaseView,
    Memory,
    Observation,
)
from litefs_operator.reconcile.primary import FREE_HOLD_S
from litefs_operator.reconcile.status import is_news, same_status
from tests.unit.operator.reconcile.seen import (
    CLUSTER,
    NOW,
    held_by,
    kept_budget,
    kept_services,
    member,
    probe,
    seen,
    silence,
)

FREE = LeaseView(state=LeaseState.FREE)
HIDDEN = LeaseView(state=LeaseState.HIDDEN, message="no token")
UNREACHABLE = LeaseView(state=LeaseState.UNREACHABLE, message="Consul is gone")
UNKNOWN = LeaseView(state=LeaseState.UNKNOWN)
STATIC = LeaseView(state=LeaseState.STATIC)
STATIC_SPEC = {"lease": {"type": "static", "static": {"primary": "blog-0"}}}


def conditions(decision: Decision) -> dict[str, tuple[str, str]]:
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in decision.status["conditions"]}


def rw_node(decision: Decision) -> str | None:
    """The node that -rw is to be moved to; None if it stays."""
    patch = decision.patch_services.get("blog-rw")
    return None if patch is None else patch["spec"]["selector"]["litefs.io/node"]


def after(decision: Decision, observation: Observation, **changes: Any) -> Observation:
    """The next observation, once a decision was carried out."""
    cluster = {**CLUSTER, "status": decision.status}
    return dataclasses.replace(observation, cluster=cluster, memory=decision.memory, **changes)


def test_a_cluster_that_is_as_it_should_be_causes_no_request() -> None:
    decision = decide(seen())
    assert (decision.node_labels, decision.role_labels) == ({}, {})
    assert (decision.create_services, decision.patch_services) == ((), {})
    assert decision.budget == BudgetChange()
    again = decide(after(decision, seen(), now=NOW + 1, timestamp="later"))
    assert same_status(decision.status, again.status)
    assert again.notices == ()


def test_a_new_cluster_gets_four_services_and_a_budget() -> None:
    decision = decide(seen(services={}, budgets=(), memory=Memory()))
    assert [entry["metadata"]["name"] for entry in decision.create_services] == [
        "blog-rw",
        "blog-ro",
        "blog-r",
        "blog-nodes",
    ]
    assert decision.budget.create is not None
    assert decision.budget.create["spec"]["minAvailable"] == 2


def test_rw_follows_the_lease_in_one_write_and_before_anything_else() -> None:
    decision = decide(seen(lease=held_by(1)))
    selector = {"litefs.io/cluster": "blog", "litefs.io/node": "ID1"}
    assert decision.patch_services == {"blog-rw": {"spec": {"selector": selector}}}
    assert decision.role_labels == {"blog-0": "replica", "blog-1": "primary"}


def test_rw_does_not_wait_for_what_the_nodes_say() -> None:
    assert rw_node(decide(seen(lease=held_by(1), probes={0: silence(), 1: silence(), 2: silence()}))) == "ID1"


def test_a_primary_that_was_never_heard_is_labelled_first() -> None:
    members = [member(0, node="", role=""), member(1), member(2)]
    decision = decide(seen(members=members, services=kept_services(None), memory=Memory()))
    assert decision.node_labels == {"blog-0": "ID0"}
    assert rw_node(decision) == "ID0"
    assert decision.role_labels == {"blog-0": "primary"}


def test_a_primary_that_cannot_be_labelled_yet_leaves_rw_where_it_is() -> None:
    members = [member(0), member(1, node="", role=""), member(2)]
    decision = decide(seen(members=members, lease=held_by(1), probes={1: silence()}))
    assert rw_node(decision) is None
    assert "blog-1" not in decision.role_labels


def test_a_pod_with_the_name_of_the_holder_and_another_address_is_not_the_primary() -> None:
    decision = decide(seen(lease=held_by(0, ip="10.9.9.9")))
    assert conditions(decision)["PrimaryElected"] == ("False", "HolderUnknown")
    assert rw_node(decision) == "none"
    assert "primary" not in decision.status


@pytest.mark.parametrize("url", ["http://blog-0.blog-nodes.web.svc:20202", "http://blog-0:20202"])
def test_a_holder_is_known_by_its_name_too(url: str) -> None:
    lease = LeaseView(state=LeaseState.HELD, holder=Holder(hostname="blog-0", advertise_url=url))
    assert decide(seen(lease=lease)).status["primary"] == "blog-0"


@pytest.mark.parametrize("url", ["", "http://", "http://[", "blog-0", "http://blog-1.blog-nodes.web.svc", "\0"])
def test_a_holder_with_an_address_that_is_none_of_its_pods_is_unknown(url: str) -> None:
    lease = LeaseView(state=LeaseState.HELD, holder=Holder(hostname="blog-0", advertise_url=url))
    assert conditions(decide(seen(lease=lease)))["PrimaryElected"] == ("False", "HolderUnknown")


def test_rw_stays_for_as_long_as_an_election_takes_and_then_selects_nobody() -> None:
    observation = seen(lease=FREE)
    first = decide(observation)
    assert rw_node(first) is None
    assert first.role_labels == {}
    assert first.look_again_s is not None
    assert first.look_again_s == pytest.approx(FREE_HOLD_S, abs=0.1)
    late = decide(after(first, observation, now=NOW + first.look_again_s))
    assert rw_node(late) == "none"
    assert late.role_labels == {"blog-0": "replica"}
    assert conditions(late)["PrimaryElected"] == ("False", "NoPrimary")
    assert late.status["phase"] == "NoPrimary"
    assert "kubectl logs" in late.status["phaseReason"]
    assert "kubectl logs" not in first.status["phaseReason"]


def test_rw_goes_from_one_primary_to_the_next_without_selecting_nobody_between() -> None:
    observation = seen(lease=FREE)
    first = decide(observation)
    second = decide(after(first, observation, now=NOW + 1.0, lease=held_by(2)))
    assert [rw_node(first), rw_node(second)] == [None, "ID2"]
    assert second.memory.free_since is None


def test_a_silent_consul_leaves_everything_as_it_is() -> None:
    decision = decide(seen(lease=UNREACHABLE))
    assert decision.patch_services == {}
    assert decision.role_labels == {}
    assert conditions(decision)["LeaseBackendReachable"] == ("False", "ConsulUnreachable")
    assert conditions(decision)["PrimaryElected"] == ("Unknown", "LeaseBackendUnreachable")
    assert conditions(decision)["Ready"][0] == "Unknown"


def test_a_primary_that_could_not_renew_its_lease_is_not_ready() -> None:
    decision = decide(seen(lease=UNREACHABLE, probes={0: probe(0, lease_remaining_s=0.0)}))
    assert conditions(decision)["Ready"] == ("False", "LeaseNotRenewed")


def test_a_replica_that_begins_to_act_leaves_rw_until_it_has_heard_of_consul() -> None:
    decision = decide(seen(lease=UNKNOWN, memory=Memory(primary_node="ID0")))
    assert decision.patch_services == {}
    assert conditions(decision)["Ready"] == ("Unknown", "NotAskedYet")


def test_where_consul_does_not_answer_the_operator_the_nodes_tell_the_primary() -> None:
    decision = decide(seen(lease=HIDDEN, probes={0: probe(0, role="replica"), 1: probe(1, role="primary")}))
    assert rw_node(decision) == "ID1"
    assert decision.status["primary"] == "blog-1"


def test_two_nodes_that_say_that_they_are_primary_move_nothing() -> None:
    decision = decide(seen(lease=HIDDEN, probes={1: probe(1, role="primary")}))
    assert decision.patch_services == {}
    assert conditions(decision)["PrimaryElected"] == ("Unknown", "SeveralClaim")


def test_a_hidden_lease_is_reachable_while_the_primary_renews_it() -> None:
    assert conditions(decide(seen(lease=HIDDEN)))["LeaseBackendReachable"] == ("True", "PrimaryRenews")
    expired = {0: probe(0, lease_remaining_s=0.0)}
    assert conditions(decide(seen(lease=HIDDEN, probes=expired)))["LeaseBackendReachable"] == ("Unknown", "NoAccess")


def test_a_static_primary_is_the_pod_that_the_spec_names() -> None:
    decision = decide(seen(lease=STATIC, spec=STATIC_SPEC, probes={0: probe(0, lease_remaining_s=None)}))
    assert decision.status["primary"] == "blog-0"
    assert conditions(decision)["LeaseBackendReachable"] == ("True", "StaticLease")
    assert conditions(decision)["Ready"][0] == "True"
    missing = decide(seen(lease=STATIC, spec=STATIC_SPEC, members=[member(1), member(2)]))
    assert conditions(missing)["PrimaryElected"] == ("False", "NoPrimary")


def test_ports_that_the_spec_adds_are_patched_into_the_services() -> None:
    spec = {"service": {"ports": [{"name": "web", "port": 80}]}}
    decision = decide(seen(spec=spec))
    assert sorted(decision.patch_services) == ["blog-r", "blog-ro", "blog-rw"]
    assert [port["name"] for port in decision.patch_services["blog-ro"]["spec"]["ports"]] == ["litefs", "web"]


def test_what_somebody_added_to_a_selector_is_taken_away() -> None:
    services = kept_services()
    rw = services["blog-rw"]
    selector = {**rw.spec["selector"], "zone": "a"}
    services["blog-rw"] = dataclasses.replace(rw, spec={**rw.spec, "selector": selector})
    assert decide(seen(services=services)).patch_services["blog-rw"]["spec"]["selector"]["zone"] is None


@pytest.mark.parametrize("owner", ["u-0", ""], ids=["not collected yet", "orphaned"])
def test_services_that_a_deleted_cluster_of_the_same_name_left_are_taken_over(owner: str) -> None:
    patches = decide(seen(services=kept_services("ID9", owner=owner))).patch_services
    assert next(iter(patches)) == "blog-rw"
    assert patches["blog-rw"]["spec"]["selector"]["litefs.io/node"] == "ID0"
    assert {patch["metadata"]["ownerReferences"][0]["uid"] for patch in patches.values()} == {"u-1"}
    assert len(patches) == 4


# ---- what pods were made with ----


def test_nodes_that_were_made_before_the_spec_was_changed_are_told_until_they_are_replaced() -> None:
    old, new = member(0, revision="before"), member(0)
    first = decide(seen(members=[old, member(1)]))
    assert conditions(first)["UpToDate"] == ("False", "NodesOutdated")
    assert conditions(first)["Ready"][0] == "True"
    assert [node.get("outdated", False) for node in first.status["nodes"]] == [True, False]
    second = decide(after(first, seen(members=[new, member(1)])))
    assert conditions(second)["UpToDate"] == ("True", "NodesCurrent")
    assert [notice.reason for notice in second.notices] == ["NodesCurrent"]


@pytest.mark.parametrize("state", ["is_ending", "is_job"])
def test_a_pod_that_is_not_to_stay_is_not_told_to_be_outdated(state: str) -> None:
    decision = decide(seen(members=[member(0), member(1, revision="before", **{state: True})]))
    assert conditions(decision)["UpToDate"][0] == "True"


# ---- the disruption budget ----


@pytest.mark.parametrize("owner", ["u-0", ""], ids=["not collected yet", "orphaned"])
def test_a_budget_that_a_deleted_cluster_of_the_same_name_left_is_taken_over(owner: str) -> None:
    left = dataclasses.replace(kept_budget(), owner=owner)
    change = decide(seen(budgets=(left,))).budget
    assert change.patch is not None
    name, patch = change.patch
    assert (name, patch["metadata"]["ownerReferences"][0]["uid"]) == ("blog", "u-1")
    assert "spec" not in patch


def test_a_primary_that_is_out_of_reach_gets_no_readers_when_another_one_has_the_lease() -> None:
    lost = seen(lease=held_by(1), probes={0: silence()})
    assert decide(lost).role_labels == {"blog-1": "primary"}
    assert decide(seen(lease=held_by(1), probes={0: silence(Silence.DENIED)})).role_labels["blog-0"] == "replica"


def test_the_budget_counts_more_nodes_at_once_and_fewer_when_they_stay_away() -> None:
    four = seen(members=map(member, range(4)))
    more = decide(four)
    assert more.budget.patch is not None
    assert more.budget.patch[1]["spec"]["minAvailable"] == 3
    two = seen(members=[member(0), member(1)])
    first = decide(two)
    assert first.budget == BudgetChange()
    later = decide(after(first, two, now=NOW + FEWER_HOLD_S))
    assert later.budget.patch is not None
    assert later.budget.patch[1]["spec"]["minAvailable"] == 1


def test_a_pod_that_is_replaced_in_time_does_not_change_the_budget() -> None:
    first = decide(seen(members=[member(0), member(1)]))
    second = decide(after(first, seen(), now=NOW + FEWER_HOLD_S - 1))
    assert second.budget == BudgetChange()
    assert second.memory.fewer_since is None


def test_the_budget_counts_a_pod_that_does_not_end_because_its_machine_is_gone() -> None:
    lost = seen(members=[member(0), member(1), member(2, is_ending=True)])
    first = decide(lost)
    later = decide(after(first, lost, now=NOW + FEWER_HOLD_S))
    assert later.budget == BudgetChange()
    gone = after(later, seen(members=[member(0), member(1)]), now=NOW + 2 * FEWER_HOLD_S)
    assert decide(gone).budget == BudgetChange()
    assert decide(after(decide(gone), gone, now=NOW + 3 * FEWER_HOLD_S)).budget.patch is not None


def test_an_operator_that_begins_to_act_finds_in_the_budget_how_many_nodes_there_were() -> None:
    lost = seen(members=[member(0), member(1), member(2, is_ending=True)], memory=Memory(primary_node="ID0"))
    assert decide(lost).budget == BudgetChange()


def test_the_budget_does_not_count_a_pod_that_ends_beside_its_successor() -> None:
    decision = decide(seen(members=[*map(member, range(3)), member(3, is_ending=True)]))
    assert decision.budget == BudgetChange()


def test_pods_of_jobs_are_not_counted_and_pods_that_end_are_not_ready() -> None:
    ending = [member(3, is_ending=True), member(4, is_ending=True, is_job=True)]
    members = [member(0), member(1), member(2, is_job=True), *ending]
    decision = decide(seen(members=members, memory=Memory(), budgets=()))
    assert decision.budget.create is not None
    assert decision.budget.create["spec"]["minAvailable"] == 1
    assert decision.status["nodeCount"] == "2/3"


def test_a_pod_of_a_job_gets_no_role_because_the_budget_selects_by_it() -> None:
    members = [member(0), member(1), member(2, is_job=True, node="", role="")]
    decision = decide(seen(members=members))
    assert decision.node_labels == {"blog-2": "ID2"}
    assert decision.role_labels == {}


def test_where_a_budget_of_somebody_else_selects_a_member_there_is_none() -> None:
    other = KeptBudget(
        namespace="web", name="mine", owner="", is_made_here=False, spec={"selector": {"matchLabels": {"app": "blog"}}}
    )
    decision = decide(seen(budgets=(kept_budget(), other)))
    assert decision.budget.delete == "blog"
    assert conditions(decision)["DisruptionBudget"] == ("False", "AnotherBudget")


def test_a_budget_of_other_pods_is_no_obstacle() -> None:
    other = KeptBudget(
        namespace="web", name="mine", owner="", is_made_here=False, spec={"selector": {"matchLabels": {"app": "shop"}}}
    )
    assert decide(seen(budgets=(kept_budget(), other))).budget == BudgetChange()


def test_there_is_no_budget_where_the_spec_says_so() -> None:
    decision = decide(seen(spec={"disruptionBudget": False}))
    assert decision.budget.delete == "blog"
    assert conditions(decision)["DisruptionBudget"] == ("True", "NotWanted")


# ---- the status ----


def test_a_cluster_that_is_well_says_so() -> None:
    decision = decide(seen())
    assert {kind: status for kind, (status, _) in conditions(decision).items()} == dict.fromkeys(
        [
            "Ready",
            "PrimaryElected",
            "ReplicasSynced",
            "LeaseBackendReachable",
            "StorageDurable",
            "DisruptionBudget",
            "UpToDate",
        ],
        "True",
    )
    status = decision.status
    assert (status["phase"], status["primary"], status["nodeCount"]) == ("Running", "blog-0", "3/3")
    assert status["observedGeneration"] == 3
    assert [node["role"] for node in status["nodes"]] == ["primary", "replica", "replica"]
    assert status["nodes"][1]["positions"] == {"app.db": "0000000000000005/8000000000000001"}


def test_a_cluster_without_pods_is_pending_and_not_ready() -> None:
    decision = decide(seen(members=[], lease=FREE, budgets=()))
    assert decision.status["phase"] == "Pending"
    assert decision.status["nodeCount"] == "0/0"
    assert conditions(decision)["Ready"] == ("False", "NoPods")


@pytest.mark.parametrize(
    ("changes", "ready", "synced"),
    [
        ({"probes": {0: silence()}}, ("Unknown", "NodeUnreachable"), "True"),
        ({"probes": {0: silence()}, "members": [member(0, is_ready=False)]}, ("False", "NodeUnreachable"), "True"),
        ({"probes": {0: silence(Silence.DENIED)}}, ("Unknown", "NodeTokenRefused"), "True"),
        ({"probes": {0: probe(0, at=NOW - FRESH_S - 1)}}, ("Unknown", "NotAskedYet"), "True"),
        ({"probes": {0: probe(0, role="acquiring")}}, ("False", "PrimaryNotServing"), "True"),
        ({"members": [member(0, is_ready=False), member(1)]}, ("False", "PrimaryNotReady"), "True"),
        ({"probes": {1: silence()}}, ("Unknown", "NodeUnreachable"), "Unknown"),
        ({"probes": {1: probe(1, at=NOW - FRESH_S - 1)}}, ("Unknown", "NotAskedYet"), "Unknown"),
        ({"probes": {1: probe(1, is_ready=False)}}, ("False", "NotCaughtUp"), "False"),
        ({"probes": {1: probe(1, lag_ms=60_000)}}, ("False", "NotCaughtUp"), "False"),
        ({"probes": {1: probe(1, lag_ms=None)}}, ("False", "NotCaughtUp"), "False"),
        (
            {"probes": {1: probe(1, positions={"app.db": "0000000000000005/8000000000000002"})}},
            ("False", "Diverged"),
            "False",
        ),
        (
            {"probes": {1: probe(1, positions={"app.db": "0000000000000004/8000000000000002"})}},
            ("True", "PrimaryElected"),
            "True",
        ),
    ],
)
def test_ready_is_what_was_heard(changes: dict[str, Any], ready: tuple[str, str], synced: str) -> None:
    decision = decide(seen(**changes))
    assert conditions(decision)["Ready"] == ready
    assert conditions(decision)["ReplicasSynced"][0] == synced
    assert (decision.status["phase"] == "Running") == (ready[0] == "True")


def test_a_replica_that_says_what_keeps_it_is_quoted() -> None:
    decision = decide(seen(probes={1: probe(1, is_ready=False, obstacle="app.db is damaged")}))
    messages = {entry["type"]: entry["message"] for entry in decision.status["conditions"]}
    assert "blog-1 (app.db is damaged)" in messages["ReplicasSynced"]


def test_data_that_go_with_a_pod_are_not_durable() -> None:
    members = [member(0), member(1, claim="")]
    assert conditions(decide(seen(members=members)))["StorageDurable"] == ("False", "GoesWithPod")


def test_pods_that_share_a_claim_are_named_with_what_to_do() -> None:
    members = [member(0, claim="shop"), member(1, claim="shop"), member(2), member(3, claim="shop", is_ending=True)]
    decision = decide(seen(members=members))
    assert conditions(decision)["StorageDurable"] == ("False", "ClaimShared")
    messages = {entry["type"]: entry["message"] for entry in decision.status["conditions"]}
    assert "blog-0, blog-1 share the claim shop" in messages["StorageDurable"]
    assert "Recreate" in messages["StorageDurable"]


def test_the_time_of_a_condition_changes_with_its_status_only() -> None:
    first = decide(seen())
    second = decide(after(first, seen(), timestamp="later", lease=held_by(1)))
    times = {entry["type"]: entry["lastTransitionTime"] for entry in second.status["conditions"]}
    assert times["PrimaryElected"] == "2026-11-21T09:00:00Z"
    assert times["Ready"] == "later"


def test_lags_and_positions_are_no_news_and_a_primary_is() -> None:
    before = decide(seen()).status
    moved = decide(seen(probes={0: probe(0, positions={"app.db": "6/6"}), 1: probe(1, lag_ms=3000)})).status
    assert not same_status(before, moved)
    assert not is_news(before, moved)
    assert is_news(before, decide(seen(lease=held_by(1))).status)


def test_a_lag_below_a_second_does_not_change_the_status() -> None:
    assert same_status(decide(seen()).status, decide(seen(probes={1: probe(1, lag_ms=900)})).status)


def test_what_the_webhook_wrote_is_not_compared() -> None:
    status = decide(seen()).status
    blocked = {"type": "InjectionBlocked", "status": "True"}
    assert same_status({**status, "conditions": [*status["conditions"], blocked]}, status)


def test_a_silent_node_is_listed_with_the_time_of_its_last_answer() -> None:
    node = decide(seen(probes={1: silence()})).status["nodes"][1]
    assert node["lastSeen"] == "1970-01-01T00:00:01Z"
    assert not node["ready"]


# ---- Events ----


def test_a_new_primary_is_told_once() -> None:
    first = decide(seen())
    assert [(notice.reason, notice.message) for notice in first.notices] == [
        ("PrimaryChanged", "blog-0 is the primary")
    ]
    second = decide(after(first, seen(), lease=held_by(1)))
    assert ("PrimaryChanged", "blog-1 is the primary, blog-0 was") in [
        (notice.reason, notice.message) for notice in second.notices
    ]


def test_losses_and_returns_are_told() -> None:
    first = decide(seen())
    lost = decide(after(first, seen(), lease=UNREACHABLE))
    assert [(notice.type, notice.reason) for notice in lost.notices] == [("Warning", "ConsulUnreachable")]
    back = decide(after(lost, seen()))
    assert ("Normal", "ConsulAnswers") in [(notice.type, notice.reason) for notice in back.notices]


def test_a_new_cluster_that_has_no_primary_yet_is_no_news() -> None:
    assert decide(seen(lease=FREE, memory=Memory())).notices == ()

"""What is to be done about a LiteFSCluster, from what was seen. Pure.

Strategy: level-based. The whole of what should be is computed each time, and what is already so is left out.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from litefs_operator.builders.services import disruption_budget, rw_service, services
from litefs_operator.events import EventType
from litefs_operator.node_client import Silence
from litefs_operator.reconcile.conditions import Condition, conditions_of
from litefs_operator.reconcile.observed import KeptBudget, LeaseState, Manifest, Memory, Observation
from litefs_operator.reconcile.primary import FREE_HOLD_S, Primary, find_primary
from litefs_operator.reconcile.selectors import selects
from litefs_operator.reconcile.status import status_of

FEWER_HOLD_S = 60.0
"""How long fewer nodes than before count as a pod that is being replaced. A budget that followed at once would let the
next node be drained in the moment between a pod of a StatefulSet and its successor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An Event to post."""

    type: EventType
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChange:
    """What is to become of the PodDisruptionBudget; at most one of the three.

    Attributes:
        create: the manifest.
        patch: name of ours, and a merge patch.
        delete: name of ours; "" for none.
    """

    create: Manifest | None = None
    patch: tuple[str, Manifest] | None = None
    delete: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done, in this order.

    Attributes:
        node_labels: label of the node's id to set, by pod; before the Services, which select by it.
        create_services: manifests.
        patch_services: merge patches, by name.
        role_labels: label of the role to set, by pod.
        budget: what is to become of the PodDisruptionBudget.
        status: the whole of it, but for what the webhook writes.
        notices: see there.
        memory: for the next decision.
        look_again_s: when time alone would change the decision; None if it would not.
    """

    node_labels: dict[str, str]
    create_services: tuple[Manifest, ...]
    patch_services: dict[str, Manifest]
    role_labels: dict[str, str]
    budget: BudgetChange
    status: Manifest
    notices: tuple[Notice, ...]
    memory: Memory
    look_again_s: float | None = field(default=None)


def decide(seen: Observation) -> Decision:
    """Returns what is to be done."""
    memory = _free_since(seen)
    if not memory.member_n:
        memory = dataclasses.replace(memory, member_n=_budgeted_n(seen))
    seen = dataclasses.replace(seen, memory=memory)
    primary = find_primary(seen)
    foreign = sorted(budget.name for budget in seen.budgets if _is_foreign(seen, budget))
    node_labels = dict(_node_labels(seen))
    memory = _remember(seen, primary, node_labels)
    conditions = conditions_of(seen, primary, foreign)
    wanted = services(seen.cluster, seen.spec, primary_node=memory.primary_node or None)
    return Decision(
        node_labels=node_labels,
        create_services=tuple(entry for entry in wanted if entry["metadata"]["name"] not in seen.services),
        patch_services=dict(_changed_services(seen, wanted)),
        role_labels=dict(_role_labels(seen, primary, node_labels)),
        budget=_budget(seen, memory, foreign),
        status=status_of(seen, primary, conditions),
        notices=tuple(_notices(seen, primary, conditions)),
        memory=memory,
        look_again_s=_look_again(seen, memory),
    )


def _free_since(seen: Observation) -> Memory:
    """Starts and stops the clock of a lease that nobody holds."""
    is_free = seen.lease.state in (LeaseState.FREE, LeaseState.HIDDEN)
    since = seen.memory.free_since if seen.memory.free_since is not None else seen.now
    return dataclasses.replace(seen.memory, free_since=since if is_free else None)


def _budgeted_n(seen: Observation) -> int:
    """Returns how many nodes the replica that acted before counted on; 0 if it left no budget."""
    ours = _own_budget(seen)
    available = ours.spec.get("minAvailable") if ours is not None else None
    return available + 1 if isinstance(available, int) else 0


def _remember(seen: Observation, primary: Primary, node_labels: dict[str, str]) -> Memory:
    memory = seen.memory
    node = memory.primary_node
    if primary.member is not None:
        node = node_labels.get(primary.member.name) or primary.member.node or node
    elif primary.is_settled:
        node = ""
    if primary.status == "True":
        memory = dataclasses.replace(memory, free_since=None)
    member_n = sum(member.counts for member in seen.members)
    if member_n >= memory.member_n:
        return dataclasses.replace(memory, primary_node=node, member_n=member_n, fewer_since=None)
    if any(member.is_ending and not member.is_job for member in seen.members):
        # It takes as long as it may, and for ever on a machine that is gone: its node is the one that is away.
        return dataclasses.replace(memory, primary_node=node, fewer_since=None)
    since = memory.fewer_since if memory.fewer_since is not None else seen.now
    if seen.now - since >= FEWER_HOLD_S:
        return dataclasses.replace(memory, primary_node=node, member_n=member_n, fewer_since=None)
    return dataclasses.replace(memory, primary_node=node, fewer_since=since)


def _node_labels(seen: Observation) -> Iterator[tuple[str, str]]:
    for member in seen.members:
        probe = seen.fresh(member)
        if probe is not None and probe.answer is not None and probe.answer.node_id != member.node:
            yield member.name, probe.answer.node_id


def _role_labels(seen: Observation, primary: Primary, node_labels: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yields the roles, of nodes that ever answered. Pods of Jobs get none: they are not drained one by one.

    A primary that is out of reach keeps its role: on a machine that is gone it would get readers of -ro, for Kubernetes
    takes its pod for ready still.
    """
    if not primary.is_settled:
        return
    for member in seen.members:
        role = "primary" if member is primary.member else "replica"
        probe = seen.fresh(member)
        if member.role == "primary" and probe is not None and probe.silence is Silence.UNREACHABLE:
            continue
        if (member.node or member.name in node_labels) and not member.is_job and member.role != role:
            yield member.name, role


def _changed_services(seen: Observation, wanted: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yields what to patch; -rw first, because new connections wait for it."""
    rw = rw_service(seen.name)
    for entry in sorted(wanted, key=lambda entry: bool(entry["metadata"]["name"] != rw)):
        name = entry["metadata"]["name"]
        kept = seen.services.get(name)
        if kept is None:
            continue
        patch = _taking_over(seen, kept.owner, entry)
        if kept.spec != entry["spec"]:
            patch["spec"] = _patch_of(kept.spec, entry["spec"])
        if patch:
            yield name, patch


def _taking_over(seen: Observation, owner: str, wanted: Manifest) -> Manifest:
    """Returns a patch that takes over what a deleted LiteFSCluster of this name left; {} for what is ours already.

    The garbage collector may be long in coming, and never comes for what was orphaned.
    """
    return {} if owner == seen.uid else {"metadata": {"ownerReferences": wanted["metadata"]["ownerReferences"]}}


def _patch_of(before: Manifest, after: Manifest) -> Manifest:
    """Returns a merge patch: maps are merged, so what is to go is named."""
    patch: Manifest = {}
    for key, value in after.items():
        if before.get(key) == value:
            continue
        patch[key] = value
        if isinstance(value, dict):
            patch[key] = {**dict.fromkeys(before.get(key) or {}), **value}
    return patch


def _budget(seen: Observation, memory: Memory, foreign: list[str]) -> BudgetChange:
    wanted = disruption_budget(seen.cluster, member_n=memory.member_n)
    ours = _own_budget(seen)
    if wanted is None or foreign or not seen.spec.disruption_budget:
        return BudgetChange(delete=ours.name if ours is not None else "")
    if ours is None:
        return BudgetChange(create=wanted)
    patch = _taking_over(seen, ours.owner, wanted)
    if ours.spec != wanted["spec"]:
        patch["spec"] = wanted["spec"]
    return BudgetChange(patch=(ours.name, patch)) if patch else BudgetChange()


def _own_budget(seen: Observation) -> KeptBudget | None:
    """Of this LiteFSCluster, or of one of its name that was deleted."""
    return next((budget for budget in seen.budgets if budget.is_made_here and budget.name == seen.name), None)


def _is_foreign(seen: Observation, budget: KeptBudget) -> bool:
    """Whether somebody else's budget selects a member."""
    if budget.is_made_here:
        return False
    return any(selects(budget.spec.get("selector") or {}, member.labels) for member in seen.members if member.counts)


def _notices(seen: Observation, primary: Primary, conditions: list[Condition]) -> Iterator[Notice]:
    """Yields what changed since the status was written. Of what is well from the start, only the first primary."""
    status = seen.cluster.get("status") or {}
    before = {entry["type"]: entry["status"] for entry in status.get("conditions") or []}
    was = status.get("primary", "")
    if primary.member is not None and primary.status == "True" and primary.member.name != was:
        message = f"{primary.member.name} is the primary" + (f", {was} was" if was else "")
        yield Notice(type=EventType.NORMAL, reason="PrimaryChanged", message=message)
    for condition in conditions:
        old = before.get(condition.type)
        is_told = condition.type in _TOLD and condition.status in ("True", "False")
        is_first = old is None and not (condition.type in _TOLD_AT_FIRST and condition.status == "False")
        if is_told and old != condition.status and not is_first:
            kind = EventType.NORMAL if condition.status == "True" else EventType.WARNING
            yield Notice(type=kind, reason=condition.reason, message=f"{condition.type}: {condition.message}")


_TOLD = frozenset(
    {"PrimaryElected", "ReplicasSynced", "LeaseBackendReachable", "StorageDurable", "DisruptionBudget", "UpToDate"}
)
"""Conditions whose changes are Events. Ready follows from the others."""

_TOLD_AT_FIRST = frozenset({"LeaseBackendReachable", "StorageDurable", "DisruptionBudget"})
"""A new cluster has no primary and no replicas that follow; that is no news."""


def _look_again(seen: Observation, memory: Memory) -> float | None:
    ends: list[float] = []
    if memory.free_since is not None and memory.primary_node:
        ends.append(memory.free_since + FREE_HOLD_S)
    if memory.fewer_since is not None:
        ends.append(memory.fewer_since + FEWER_HOLD_S)
    return max(min(ends) - seen.now, 0.0) + 0.05 if ends else None

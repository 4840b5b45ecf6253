"""The conditions of a LiteFSCluster, from what its nodes said. Pure.

Strategy: a condition is True only by a fresh sign that it holds. What could not be heard is Unknown, not False, and
never True.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from litefs_operator.node_client import Answer, Silence
from litefs_operator.reconcile.observed import LeaseState, Member, Observation
from litefs_operator.reconcile.primary import Primary

LAG_MS_MAX = 10_000
"""A replica that heard nothing of its primary for longer does not count as one that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition; status is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str
    message: str

    def manifest(self, before: dict[str, Any], generation: int, timestamp: str) -> dict[str, Any]:
        """Returns it as the status has it; the time changes with `status` only.

        Args:
            before: the condition as the API server has it; empty if it does not.
            generation: of the spec that it is about.
            timestamp: of now.
        """
        is_same = before.get("status") == self.status
        return {
            "type": self.type,
            "status": self.status,
            "reason": self.reason,
            "message": self.message[:1024],
            "lastTransitionTime": before["lastTransitionTime"] if is_same else timestamp,
            "observedGeneration": generation,
        }


def conditions_of(seen: Observation, primary: Primary, foreign_budgets: list[str]) -> list[Condition]:
    """Returns the conditions.

    Args:
        foreign_budgets: names of the users' PodDisruptionBudgets that select a member.
    """
    elected = Condition(type="PrimaryElected", status=primary.status, reason=primary.reason, message=primary.message)
    synced = _synced(seen, primary)
    return [
        _ready(seen, primary, elected, synced),
        elected,
        synced,
        _lease_backend(seen, primary),
        _storage(seen),
        _budget(seen, foreign_budgets),
        _up_to_date(seen),
    ]


def _ready(seen: Observation, primary: Primary, elected: Condition, synced: Condition) -> Condition:
    def ready(status: str, reason: str, message: str) -> Condition:
        return Condition(type="Ready", status=status, reason=reason, message=message)

    if not any(member.counts for member in seen.members):
        return ready("False", "NoPods", "there is no pod of this cluster")
    member = primary.member
    probe = seen.fresh(member) if member is not None else None
    remaining_s = probe.answer.lease_remaining_s if probe is not None and probe.answer is not None else None
    if member is not None and remaining_s is not None and remaining_s <= 0.0:
        return ready("False", "LeaseNotRenewed", f"{member.name} could not renew its lease in time: it refuses commits")
    if elected.status != "True" or member is None:
        return ready(elected.status, elected.reason, elected.message)
    if probe is None or probe.answer is None:
        # The kubelet asks it, too: a pod that is Ready is only out of the operator's reach.
        return ready(
            "Unknown" if member.is_ready else "False",
            _silence_reason(seen, member),
            f"the primary {_silence(seen, member)}",
        )
    if probe.answer.role != "primary":
        message = f"{member.name} holds the lease, and says that it is {probe.answer.role}"
        return ready("False", "PrimaryNotServing", message)
    if not member.is_ready:
        return ready("False", "PrimaryNotReady", f"the pod {member.name} is not Ready")
    if synced.status != "True":
        return ready(synced.status, synced.reason, synced.message)
    return ready("True", elected.reason, f"{elected.message}; {synced.message}")


def _synced(seen: Observation, primary: Primary) -> Condition:
    def synced(status: str, reason: str, message: str) -> Condition:
        return Condition(type="ReplicasSynced", status=status, reason=reason, message=message)

    replicas = [member for member in seen.members if member.counts and member is not primary.member]
    if not replicas:
        return synced("True", "NoReplicas", "there are no replicas")
    leader = _answer_of(seen, primary.member) if primary.member is not None else None
    silent = [member for member in replicas if _answer_of(seen, member) is None]
    behind, diverged = [], []
    for member in replicas:
        answer = _answer_of(seen, member)
        if answer is None:
            continue
        if leader is not None and (database := _diverged(leader, answer)):
            diverged.append(f"{database} on {member.name}")
        elif not answer.is_ready or answer.lag_ms is None or answer.lag_ms > LAG_MS_MAX:
            behind.append(f"{member.name} ({answer.obstacle})" if answer.obstacle else member.name)
    if diverged:
        message = f"at the primary's transaction, but with another checksum: {', '.join(diverged)}"
        return synced("False", "Diverged", message)
    if behind:
        return synced("False", "NotCaughtUp", f"not caught up with the primary: {', '.join(behind)}")
    if silent:
        message = "; ".join(_silence(seen, member) for member in silent)
        return synced("Unknown", _silence_reason(seen, silent[0]), message)
    return synced("True", "CaughtUp", f"{len(replicas)} of {len(replicas)} replicas follow")


def _diverged(leader: Answer, answer: Answer) -> str:
    """Returns a database that is at the primary's transaction with another checksum; "" if there is none."""
    for name, position in answer.positions.items():
        txid, _, checksum = position.partition("/")
        leaders_txid, _, leaders_checksum = leader.positions.get(name, "").partition("/")
        if txid == leaders_txid and checksum != leaders_checksum:
            return name
    return ""


def _lease_backend(seen: Observation, primary: Primary) -> Condition:
    def backend(status: str, reason: str, message: str) -> Condition:
        return Condition(type="LeaseBackendReachable", status=status, reason=reason, message=message)

    lease = seen.lease
    if lease.state is LeaseState.STATIC:
        return backend("True", "StaticLease", "the primary is named by the spec, and nobody is asked")
    if lease.state in (LeaseState.HELD, LeaseState.FREE):
        return backend("True", "ConsulAnswers", "Consul answers")
    if lease.state is LeaseState.UNREACHABLE:
        return backend("False", "ConsulUnreachable", lease.message)
    if lease.state is LeaseState.UNKNOWN:
        return backend("Unknown", "NotAskedYet", lease.message or "Consul has not been heard yet")
    answer = _answer_of(seen, primary.member) if primary.member is not None else None
    if answer is not None and (answer.lease_remaining_s or 0.0) > 0.0:
        return backend("True", "PrimaryRenews", f"the primary renews its lease ({lease.message})")
    return backend("Unknown", "NoAccess", lease.message)


def _storage(seen: Observation) -> Condition:
    users = defaultdict[str, list[str]](list)
    for member in filter(lambda member: member.counts, seen.members):
        users[member.claim].append(member.name)
    fleeting = users.pop("", [])
    shared = [f"{', '.join(pods)} share the claim {claim}" for claim, pods in users.items() if len(pods) > 1]
    if shared:
        message = (
            f"{'; '.join(shared)}, with which one pod can run at a time: give each its own, as a StatefulSet does, or "
            "set strategy.type: Recreate in a Deployment of one replica"
        )
        return Condition(type="StorageDurable", status="False", reason="ClaimShared", message=message)
    if fleeting:
        message = f"the data go with the pod: {', '.join(fleeting)}"
        return Condition(type="StorageDurable", status="False", reason="GoesWithPod", message=message)
    return Condition(
        type="StorageDurable", status="True", reason="Claims", message="every node has its data in a claim of its own"
    )


def _budget(seen: Observation, foreign_budgets: list[str]) -> Condition:
    def budget(status: str, reason: str, message: str) -> Condition:
        return Condition(type="DisruptionBudget", status=status, reason=reason, message=message)

    if not seen.spec.disruption_budget:
        return budget("True", "NotWanted", "spec.disruptionBudget is false")
    if foreign_budgets:
        message = (
            f"there is none: the PodDisruptionBudget {', '.join(foreign_budgets)} selects pods of this cluster, and "
            "with two of them no pod could be evicted"
        )
        return budget("False", "AnotherBudget", message)
    if sum(member.counts for member in seen.members) < 2:
        return budget("True", "SingleNode", "there is none for a single node, which it would never let go")
    return budget("True", "Kept", "one node at a time may be drained")


def _up_to_date(seen: Observation) -> Condition:
    outdated = [member.name for member in seen.members if seen.is_outdated(member)]
    if outdated:
        message = (
            f"made before the LiteFSCluster or the installation was changed, and to be replaced: {', '.join(outdated)}"
        )
        return Condition(type="UpToDate", status="False", reason="NodesOutdated", message=message)
    message = "every node was made with the LiteFSCluster and the installation as they are"
    return Condition(type="UpToDate", status="True", reason="NodesCurrent", message=message)


def lags_of(seen: Observation, primary: Primary) -> Iterator[int]:
    """Yields the lag of each replica that answered, as `whole_seconds_ms`."""
    for member in seen.members:
        answer = _answer_of(seen, member)
        if member is not primary.member and answer is not None and answer.lag_ms is not None:
            yield whole_seconds_ms(answer.lag_ms)


def whole_seconds_ms(lag_ms: int) -> int:
    """Returns milliseconds rounded down to seconds: the heartbeat comes each second, and the rest is its phase."""
    return lag_ms // 1000 * 1000


def _answer_of(seen: Observation, member: Member) -> Answer | None:
    probe = seen.fresh(member)
    return probe.answer if probe is not None else None


def _silence_reason(seen: Observation, member: Member) -> str:
    probe = seen.fresh(member)
    return "NotAskedYet" if probe is None or probe.silence is None else f"Node{probe.silence}"


def _silence(seen: Observation, member: Member) -> str:
    probe = seen.fresh(member)
    if probe is None:
        return f"{member.name} has not been asked yet" if member.ip else f"{member.name} has no address yet"
    if probe.silence is Silence.DENIED:
        return (
            f"{member.name} does not take the operator's token: the Secret of this cluster's token was made by another "
            "installation; delete it and restart the pods"
        )
    return f"{member.name} does not answer: {probe.message}"

"""The status of a LiteFSCluster, as `kubectl get` shows it. Pure.

Strategy: what changes all the time without meaning anything is left out or rounded, so that an idle cluster causes no
write: lags are whole seconds, and `lastSeen` is told of nodes that are silent.
"""

from datetime import UTC, datetime
from typing import Any

from litefs_operator.injection_status import CONDITION as INJECTION_BLOCKED
from litefs_operator.reconcile.conditions import Condition, lags_of, whole_seconds_ms
from litefs_operator.reconcile.observed import Manifest, Member, Observation
from litefs_operator.reconcile.primary import Primary

NODES_MAX = 100
"""As the schema has it."""
POSITIONS_MAX = 20
"""Databases of a node that are listed: an object of the API server has to stay small."""


def status_of(seen: Observation, primary: Primary, conditions: list[Condition]) -> Manifest:
    """Returns the status, without what the webhook writes into it."""
    before = {entry["type"]: entry for entry in seen.cluster.get("status", {}).get("conditions") or []}
    generation = int(seen.cluster["metadata"].get("generation") or 0)
    counted = [member for member in seen.members if member.counts]
    ready = next(condition for condition in conditions if condition.type == "Ready")
    status: Manifest = {
        "observedGeneration": generation,
        "phase": _phase(primary, ready, counted),
        "phaseReason": ready.message[:1024],
        "nodeCount": _node_count(seen, counted),
        "nodes": [_node(seen, primary, member) for member in seen.members[:NODES_MAX]],
        "conditions": [
            condition.manifest(before.get(condition.type, {}), generation, seen.timestamp) for condition in conditions
        ],
    }
    if primary.member is not None:
        status["primary"] = primary.member.name
    lags = list(lags_of(seen, primary))
    if lags:
        status["lagMsMax"] = max(lags)
    return status


def _phase(primary: Primary, ready: Condition, counted: list[Member]) -> str:
    if not counted:
        return "Pending"
    if ready.status == "True":
        return "Running"
    return "Degraded" if primary.member is not None else "NoPrimary"


def _node_count(seen: Observation, counted: list[Member]) -> str:
    """Counts a pod that ends as one that is not ready: on a machine that is gone, it stays so, and has no successor."""
    ending_n = sum(member.is_ending and not member.is_job for member in seen.members)
    return f"{sum(_is_ready(seen, member) for member in counted)}/{len(counted) + ending_n}"


def _is_ready(seen: Observation, member: Member) -> bool:
    probe = seen.fresh(member)
    return probe is not None and probe.answer is not None and probe.answer.is_ready


def _node(seen: Observation, primary: Primary, member: Member) -> Manifest:
    probe = seen.fresh(member)
    answer = probe.answer if probe is not None else None
    node: dict[str, Any] = {"pod": member.name, "ready": _is_ready(seen, member)}
    if member is primary.member:
        node["role"] = "primary"
    elif answer is not None:
        node["role"] = answer.role
    if member.node_name:
        node["nodeName"] = member.node_name
    if member.ip:
        node["ip"] = member.ip
    if member.is_job:
        node["job"] = True
    if seen.is_outdated(member):
        node["outdated"] = True
    if answer is not None:
        if answer.lag_ms is not None and member is not primary.member:
            node["lagMs"] = whole_seconds_ms(answer.lag_ms)
        if answer.positions:
            node["positions"] = dict(sorted(answer.positions.items())[:POSITIONS_MAX])
    elif probe is not None and probe.answered_at:
        node["lastSeen"] = datetime.fromtimestamp(probe.answered_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return node


def same_status(before: Manifest, now: Manifest) -> bool:
    """Returns whether the API server has this status; what the webhook wrote does not count."""
    return _comparable(before) == _comparable(now)


def is_news(before: Manifest, now: Manifest) -> bool:
    """Returns whether more changed than positions and lags, so that it is to be written at once."""
    return any(before.get(key) != now.get(key) for key in ("phase", "primary", "nodeCount")) or {
        name: entry["status"] for name, entry in _comparable(before)["conditions"].items()
    } != {name: entry["status"] for name, entry in _comparable(now)["conditions"].items()}


def _comparable(status: Manifest) -> Manifest:
    conditions = {
        entry["type"]: entry for entry in status.get("conditions") or [] if entry["type"] != INJECTION_BLOCKED
    }
    return {**status, "conditions": conditions}

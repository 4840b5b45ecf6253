"""Which pod is the primary, and how that is known. Pure."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from litefs_operator.consul import Holder
from litefs_operator.reconcile.observed import LeaseState, LeaseView, Member, Observation

FREE_HOLD_S = 3.0
"""How long -rw stays with a primary that gave the lease up: the lock-delay of 1 s and an election of 1.5 s at most. The
Service then goes from one address to the next in one write, which kube-proxy does at once; by way of none takes 1 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The primary.

    Attributes:
        member: the pod; None if there is none, or it is not known.
        status: "True" if there is one, "False" if not, "Unknown".
        reason: one word.
        message: a sentence.
        is_settled: labels and Services may follow. Otherwise they are left as they are.
    """

    member: Member | None
    status: str
    reason: str
    message: str
    is_settled: bool = True


def find_primary(seen: Observation) -> Primary:
    """Returns which of the members is the primary."""
    lease = seen.lease
    if lease.state is LeaseState.STATIC:
        return _by_configuration(seen)
    if lease.state is LeaseState.HELD:
        return _by_lease(seen, lease)
    if lease.state is LeaseState.HIDDEN:
        return _by_nodes(seen, lease)
    if lease.state is LeaseState.FREE:
        return _nobody(seen)
    reason = "LeaseBackendUnreachable" if lease.state is LeaseState.UNREACHABLE else "NotAskedYet"
    message = lease.message or "Consul has not been heard yet"
    return Primary(member=_last(seen), status="Unknown", reason=reason, message=message, is_settled=False)


def is_holder(member: Member, holder: Holder) -> bool:
    """Returns whether a pod is the one that holds a lease, and not one of the same name before it."""
    if member.name != holder.hostname:
        return False
    try:
        host = urlsplit(holder.advertise_url).hostname or ""
    except ValueError:
        return False  # whoever can write to Consul wrote it
    return host in (member.ip, member.name) or host.startswith(f"{member.name}.")


def _by_configuration(seen: Observation) -> Primary:
    assert seen.spec.lease.static is not None
    name = seen.spec.lease.static.primary
    member = next((member for member in seen.members if member.name == name), None)
    if member is None:
        message = f"the pod {name}, which the spec names, is not there"
        return Primary(member=None, status="False", reason="NoPrimary", message=message)
    return Primary(member=member, status="True", reason="PrimaryNamed", message=f"{name} is the primary by the spec")


def _by_lease(seen: Observation, lease: LeaseView) -> Primary:
    assert lease.holder is not None
    member = next((member for member in seen.members if is_holder(member, lease.holder)), None)
    if member is None:
        who = lease.holder.hostname or "somebody unknown"
        return Primary(
            member=None,
            status="False",
            reason="HolderUnknown",
            message=f"the lease is held by {who} ({lease.holder.advertise_url}), which is no pod of this cluster; it "
            "runs out if that node is gone",
        )
    return Primary(member=member, status="True", reason="PrimaryElected", message=f"{member.name} holds the lease")


def _by_nodes(seen: Observation, lease: LeaseView) -> Primary:
    claims = [
        member
        for member in seen.members
        if (probe := seen.fresh(member)) is not None and probe.answer is not None and probe.answer.role == "primary"
    ]
    if len(claims) == 1:
        message = f"{claims[0].name} says that it is the primary ({lease.message})"
        return Primary(member=claims[0], status="True", reason="PrimaryElected", message=message)
    if claims:
        # A handoff between two answers: the next round tells.
        message = f"{', '.join(member.name for member in claims)} say that they are the primary"
        return Primary(member=_last(seen), status="Unknown", reason="SeveralClaim", message=message, is_settled=False)
    return _nobody(seen)


def _nobody(seen: Observation) -> Primary:
    since = seen.memory.free_since
    is_held = since is None or seen.now - since < FREE_HOLD_S
    message = "nobody holds the lease" if seen.members else "there is no pod of this cluster"
    if seen.members and not is_held:
        message += ", and the sidecars' logs say why (kubectl logs POD -c litefs)"
    return Primary(member=None, status="False", reason="NoPrimary", message=message, is_settled=not is_held)


def _last(seen: Observation) -> Member | None:
    """The primary before it was lost sight of."""
    node = seen.memory.primary_node
    return next((member for member in seen.members if node and member.node == node), None)

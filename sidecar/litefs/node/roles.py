"""The roles of a node, as one table of what leads from one to the next.

    role          what may be trusted in it
    STARTING      nothing is known yet. Commits go on only as far as an earlier process of this node had promised
    REPLICA       another node holds the lease. Commits are refused; its images are taken and applied
    CANDIDATE     nobody holds the lease, or nobody can be asked. Commits are refused; what was received is applied
    ACQUIRING     the lease is being asked for. Nothing is received any more; all that was received is being applied
    PRIMARY       the lease is ours until `Lease.primary_until`. The appliers have let go of every database
    HANDING_OFF   the lease is ours or on its way to another node. Commits are refused, positions stand still
    DEMOTING      the lease is lost, or another node was given it. Commits are refused; who holds it is being found out
    STOPPED       the process ends. Commits are refused, the lease is not ours

    STARTING ──┬─> REPLICA <──> CANDIDATE
               │      │             │ elected
               │      └─ handed ─┐  v
               │                 ACQUIRING ──> PRIMARY ──> HANDING_OFF
               └── resumed ────────────────────^    └──> DEMOTING <──┘
                                                            └──> REPLICA, CANDIDATE, PRIMARY

The table is all there is to a role's logic; `role_driver.py` finds out which event happens next.
"""

from enum import Enum


class Role(Enum):
    """What a node is; the values are those of `/status` and the metrics."""

    STARTING = "starting"
    REPLICA = "replica"
    CANDIDATE = "candidate"
    ACQUIRING = "acquiring"
    PRIMARY = "primary"
    HANDING_OFF = "handing-off"
    DEMOTING = "demoting"
    STOPPED = "stopped"


class Event(Enum):
    """What can happen to a node."""

    RESUMED = "the lease is still ours"
    PRIMARY_SEEN = "another node holds the lease"
    NO_PRIMARY = "nobody holds the lease"
    ELECTED = "no other candidate deserves it more"
    HANDED = "the primary hands the lease to this node"
    ACQUIRED = "the lease is ours"
    REFUSED = "the lease could not be had"
    LEASE_LOST = "the lease was lost, or could not be confirmed in time"
    HANDOFF_ASKED = "this node is to hand the lease over"
    HANDED_OFF = "the lease is on its way to another node"
    HANDOFF_FAILED = "no node could be given the lease, which is still ours"
    STOP = "the process is to end"


TRANSITIONS: dict[tuple[Role, Event], Role] = {
    (Role.STARTING, Event.RESUMED): Role.PRIMARY,
    (Role.STARTING, Event.PRIMARY_SEEN): Role.REPLICA,
    (Role.STARTING, Event.NO_PRIMARY): Role.CANDIDATE,
    (Role.STARTING, Event.STOP): Role.STOPPED,
    (Role.REPLICA, Event.PRIMARY_SEEN): Role.REPLICA,
    (Role.REPLICA, Event.NO_PRIMARY): Role.CANDIDATE,
    (Role.REPLICA, Event.HANDED): Role.ACQUIRING,
    (Role.REPLICA, Event.STOP): Role.STOPPED,
    (Role.CANDIDATE, Event.PRIMARY_SEEN): Role.REPLICA,
    (Role.CANDIDATE, Event.NO_PRIMARY): Role.CANDIDATE,
    (Role.CANDIDATE, Event.ELECTED): Role.ACQUIRING,
    (Role.CANDIDATE, Event.HANDED): Role.ACQUIRING,
    (Role.CANDIDATE, Event.STOP): Role.STOPPED,
    (Role.ACQUIRING, Event.ACQUIRED): Role.PRIMARY,
    (Role.ACQUIRING, Event.REFUSED): Role.CANDIDATE,
    (Role.ACQUIRING, Event.STOP): Role.STOPPED,
    (Role.PRIMARY, Event.LEASE_LOST): Role.DEMOTING,
    (Role.PRIMARY, Event.HANDOFF_ASKED): Role.HANDING_OFF,
    (Role.PRIMARY, Event.STOP): Role.HANDING_OFF,
    (Role.HANDING_OFF, Event.HANDED_OFF): Role.DEMOTING,
    (Role.HANDING_OFF, Event.HANDOFF_FAILED): Role.PRIMARY,
    (Role.HANDING_OFF, Event.LEASE_LOST): Role.DEMOTING,
    (Role.HANDING_OFF, Event.STOP): Role.STOPPED,
    (Role.DEMOTING, Event.RESUMED): Role.PRIMARY,
    (Role.DEMOTING, Event.PRIMARY_SEEN): Role.REPLICA,
    (Role.DEMOTING, Event.NO_PRIMARY): Role.CANDIDATE,
    (Role.DEMOTING, Event.STOP): Role.STOPPED,
}


def next_role(role: Role, event: Event) -> Role:
    """Returns what `event` makes of a node that is `role`.

    Raises:
        KeyError: this cannot happen to such a node; a mistake of ours.
    """
    return TRANSITIONS[role, event]

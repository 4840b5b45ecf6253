"""What the role driver needs to know of its node: what a role means on it, and how it takes part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from litefs.lease.lease import Holder, Identity


class Duties(Protocol):
    """What a role means on this node."""

    def open_commits(self, until: float) -> None:
        """Allows commits until then, in monotonic seconds. Cheap; again with each renewal."""

    def await_open(self) -> None:
        """Returns when `open_commits` has had its effect.

        Raises:
            LinkSilentError: whoever has to accept them hangs.
        """

    def close_commits(self) -> None:
        """Refuses commits. When this returns, positions stand still.

        Raises:
            LinkSilentError: whoever has to refuse them hangs: until their deadline they may be accepted yet.
        """

    def begin_to_lead(self) -> None:
        """Lets go of every database, so that applications can write."""

    def follow(self, holder: Holder | None) -> None:
        """Is a replica of `holder`; of nobody if None, with what was received before still to be applied."""

    def stop_receiving(self) -> None:
        """Takes nothing from the primary any more."""

    def must_follow(self) -> bool:
        """Whether this node lost something and has not caught up with a primary since: it must not lead."""

    def catch_up(self, timeout_s: float) -> str:
        """Applies what was received. Returns the databases that have not caught up in time; "" if all have."""

    def freshness(self) -> int:
        """Returns how much this node has, as `election.freshness`."""

    def followers(self) -> Mapping[int, int]:
        """Returns the connected replicas by node id, with the freshness that each was sent."""

    def send_handoff(self, node_id: int, lease_id: str, timeout_s: float) -> bool:
        """Sends a replica the rest of the images, then the lease. Returns whether it has been sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidacy:
    """How this node takes part.

    Attributes:
        identity: of this node.
        may_lead: it may become primary.
        retry_s: pause after a failure.
    """

    identity: Identity
    may_lead: bool
    retry_s: float

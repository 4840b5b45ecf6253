"""The lease of a static configuration: one node is named the primary, for ever."""

import time

from litefs.errors import HandoffRefusedError, LeaseLostError
from litefs.lease.lease import Candidate, Holder, Identity

FOREVER = float("inf")
_REFUSAL = "the lease is static: the primary is changed in the configuration"


class StaticLease:
    """A lease that is never lost by the node that is named, and never had by any other."""

    def __init__(self, primary: Identity, *, is_own: bool) -> None:
        """Args: primary: the node that is named; is_own: it is this one."""
        self._holder = Holder(hostname=primary.hostname, advertise_url=primary.advertise_url, term="static")
        self._is_own = is_own

    @property
    def ttl_s(self) -> float:
        """It lasts for ever."""
        return FOREVER

    @property
    def primary_until(self) -> float:
        """For ever, or never."""
        return FOREVER if self._is_own else 0.0

    @property
    def term(self) -> str:
        """The one term there is, or none."""
        return self._holder.term if self._is_own else ""

    @property
    def is_published(self) -> bool:
        """There is no election to publish for."""
        return False

    def resume(self) -> bool:
        """Returns whether this node is the one that is named."""
        return self._is_own

    def holder(self) -> Holder | None:
        """Returns the node that is named."""
        return self._holder

    def was_taken_away(self) -> bool:
        """Nobody can take it away."""
        return False

    def watch(self, timeout_s: float) -> Holder | None:
        """Waits: there will be no other answer."""
        time.sleep(timeout_s)
        return self._holder

    def acquire(self) -> bool:
        """Returns whether this node is the one that is named."""
        return self._is_own

    def take_over(self, lease_id: str) -> bool:
        """Refuses: nobody can have handed it off."""
        return False

    def renew(self) -> None:
        """Does nothing: there is nobody to ask."""

    def hand_off(self) -> str:
        """Refuses.

        Raises:
            LeaseLostError: this node is a replica.
            HandoffRefusedError: it is the primary, and stays it.
        """
        if not self._is_own:
            raise LeaseLostError("this node is not the primary")
        raise HandoffRefusedError(_REFUSAL)

    def withdraw(self, lease_id: str) -> bool:
        """Has nothing to free: nothing was handed off."""
        return True

    def decline(self, lease_id: str) -> None:
        """Does nothing: nothing was handed to anybody."""

    def release(self) -> None:
        """Does nothing: the configuration stays."""

    def publish(self, freshness: int) -> None:
        """Does nothing: there is no election."""

    def candidates(self) -> list[Candidate]:
        """Returns none: there is no election."""
        return []

    def cluster_id(self) -> str:
        """Returns "": the primary makes it and its replicas adopt it."""
        return ""

    def offer_cluster_id(self, text: str) -> str:
        """Returns `text`: nobody keeps another one."""
        return text

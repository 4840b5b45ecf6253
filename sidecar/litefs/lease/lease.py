"""What a node asks of whoever keeps the lease, in words that fit any keeper.

Strategy: a lease is held by one node at a time, for as long as it is renewed. What the holder may rely on is not
what the keeper thinks but its own clock: `primary_until` is counted from the moment at which the last request that
was confirmed was *sent*, less a margin. After that time another node may hold the lease.

Rules of this file: nothing here knows Consul or Kubernetes. `tests/unit/lease/test_contract.py` runs against
every implementation.
"""

from dataclasses import dataclass
from typing import Protocol

MARGIN_FRACTION = 0.1
"""Part of the TTL that is not used: clocks that run at different speeds, and a commit that is being answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """This node, as the others are to know it.

    Attributes:
        node_id: 64 bits, unsigned.
        hostname: what `.primary` shows on the replicas.
        advertise_url: where the others reach this node's HTTP API.
    """

    node_id: int
    hostname: str
    advertise_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds the lease.

    Attributes:
        hostname: as it named itself.
        advertise_url: where it is followed; "" if what it wrote cannot be read.
        term: what `Lease.term` of the holder says; opaque.
    """

    hostname: str
    advertise_url: str
    term: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node that may become primary and is not.

    Attributes:
        freshness: transactions it has, over all databases; comparable within a cluster.
    """

    node_id: int
    freshness: int


class Lease(Protocol):
    """A lease and this node's part in it.

    `watch` belongs to one thread and `renew` to one other; everything else to a third. Every call has a bound.
    All may raise LeaseUnavailableError, but for those that say otherwise.
    """

    @property
    def ttl_s(self) -> float:
        """How long the lease lasts without renewal, in seconds; infinite if it needs none."""

    @property
    def primary_until(self) -> float:
        """This node holds the lease until then for certain, in monotonic seconds; 0: it does not. Raises nothing."""

    @property
    def term(self) -> str:
        """What `Holder.term` is while this node holds the lease; "" while it does not. Raises nothing."""

    @property
    def is_published(self) -> bool:
        """What `publish` said of this candidate stands, as far as is known here. Raises nothing."""

    def resume(self) -> bool:
        """Takes up the lease that an earlier process of this node held. Returns whether it is still ours."""

    def holder(self) -> Holder | None:
        """Returns who holds the lease; None if nobody does."""

    def was_taken_away(self) -> bool:
        """Whether the node that held the lease last, as seen here, lost it by no doing of its own and is alive."""

    def watch(self, timeout_s: float) -> Holder | None:
        """Returns who holds the lease, as soon as that differs from the last answer, or after about `timeout_s`."""

    def acquire(self) -> bool:
        """Tries once to get the lease. Returns whether this node holds it now."""

    def take_over(self, lease_id: str) -> bool:
        """Gets the lease that its holder has handed to this node. Returns whether this node holds it now."""

    def renew(self) -> None:
        """Confirms the lease, or this node's candidacy if it does not hold it.

        Raises:
            LeaseLostError: this node held it and does not any more.
        """

    def hand_off(self) -> str:
        """Lets go of the lease without freeing it. Returns what `take_over` of another node needs.

        Raises:
            LeaseLostError: this node does not hold it.
        """

    def withdraw(self, lease_id: str) -> bool:
        """Frees a lease that this node handed off, unless it was taken over: whoever has not done so by now never can.

        Returns:
            Whether it is free; False: the other node has it, and goes on.
        """

    def decline(self, lease_id: str) -> None:
        """Frees a lease that was handed to this node, without ever holding it."""

    def release(self) -> None:
        """Frees the lease, if this node holds it, and ends the candidacy."""

    def publish(self, freshness: int) -> None:
        """Tells the other candidates how much this one has."""

    def candidates(self) -> list[Candidate]:
        """Returns the candidates that are alive, this node included if it has published."""

    def cluster_id(self) -> str:
        """Returns the id of the cluster; "" if there is none yet."""

    def offer_cluster_id(self, text: str) -> str:
        """Makes `text` the id of the cluster unless there is one. Returns the one that stands."""

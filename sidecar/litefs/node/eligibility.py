"""What speaks against a node's becoming primary: hindrances of its own, and what the lease says when it is free.

An older primary may not know yet that the lease is not its own any more, if somebody took it away: emptied whoever
keeps it, or deleted its key. It learns that at its next renewal, and its commits end a TTL after the last one at the
latest. So nobody else takes such a lease before a TTL has passed.
"""

import logging
import time
from dataclasses import dataclass

from litefs.lease.lease import Lease
from litefs.node.cluster_id import ClusterId

LEAVES = "this node is about to end"
"""Why a node that was told to leave is no candidate."""

DAMAGED = "what it had was damaged, and it has not caught up with a primary since"
"""Why a node that set databases aside is no candidate."""

SILENT = "its filesystem process or its disk does not answer"
"""Why a node whose mount hangs is no candidate, and does not keep a lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Why this node must not become primary now.

    Attributes:
        level: of the log line.
        text: for the log; the same as long as nothing changes.
        is_other_cluster: the lease is another cluster's.
    """

    level: int
    text: str
    is_other_cluster: bool = False


class Eligibility:
    """The checks of one node. Called on the role driver's thread, as the lease asks for."""

    def __init__(self, lease: Lease, cluster: ClusterId) -> None:
        """Args: cluster: of this node."""
        self._lease = lease
        self._cluster = cluster
        self.is_cluster_known = False
        """The lease knew the cluster when it was asked last."""

    def objection(self, vacant_since: float, *, has_led: bool) -> Objection | None:
        """Returns what speaks against taking a free lease; None if nothing does.

        Args:
            vacant_since: when the lease was first seen free, in monotonic seconds.
            has_led: this process was the last primary, as far as it knows.

        Raises:
            LeaseUnavailableError: whoever keeps the lease does not answer.
        """
        theirs, ours = self._lease.cluster_id(), self._cluster.text
        self.is_cluster_known = bool(theirs)
        if theirs and ours and theirs != ours:
            text = f"the lease is that of cluster {theirs}, this node belongs to {ours}"
            return Objection(level=logging.ERROR, text=text, is_other_cluster=True)
        if theirs and not ours:
            text = f"this node has nothing of cluster {theirs} yet: it waits for a primary"
            return Objection(level=logging.WARNING, text=text)
        if time.monotonic() >= vacant_since + self._lease.ttl_s:
            return None
        text = ""
        if ours and not theirs and not has_led:
            text = "the lease knows no cluster"
        elif self._lease.was_taken_away():
            text = "the lease was taken away from a node that lives"
        if not text:
            return None
        return Objection(level=logging.WARNING, text=f"{text}: waiting {self._lease.ttl_s:g} s for an older primary")

"""How a primary gives its lease to another node: finding who is to have it, sending it, waiting until it is taken."""

import time

from litefs.lease.lease import Holder, Identity, Lease
from litefs.node.election import successor
from litefs.node.lease_watch import Ask, Inbox
from litefs.node.role_duties import Duties

SUCCESSOR_CHECK_S = 0.01
ASKED_CHECK_S = 0.05
"""How often a primary that is to hand over looks whether a candidate follows by now."""


class HandingOver:
    """The steps of a handoff. Called on the role driver's thread, as the lease asks for."""

    def __init__(self, lease: Lease, duties: Duties, inbox: Inbox, identity: Identity) -> None:
        """Args: identity: of this node."""
        self._lease = lease
        self._duties = duties
        self._inbox = inbox
        self._identity = identity

    def has_target(self, asked: Ask) -> bool:
        """Looks for the freshest candidate if no other was named. Ends what cannot be done; waits a moment else.

        Raises:
            LeaseUnavailableError: the candidates cannot be asked for.
        """
        if time.monotonic() >= asked.deadline:
            self._inbox.finish_asked("" if asked.node_id is None else "it takes too long")
        elif asked.node_id is None:
            asked.node_id, may_come = self.find_successor()
            if asked.node_id is None and not may_come:
                self._inbox.finish_asked("")
            elif asked.node_id is None:
                self._inbox.wait(lambda: bool(self._inbox.lost), ASKED_CHECK_S)
        return self._inbox.asked is asked and asked.node_id is not None

    def find_successor(self) -> tuple[int | None, bool]:
        """Returns the candidate that has most of those who follow, and whether there are candidates at all.

        Raises:
            LeaseUnavailableError: the candidates cannot be asked for.
        """
        own_id = self._identity.node_id
        candidates = [candidate for candidate in self._lease.candidates() if candidate.node_id != own_id]
        return successor(candidates, self._duties.followers()), bool(candidates)

    def await_successor(self, timeout_s: float) -> int | None:
        """Returns the candidate that has most of those who follow; waits for one to follow if there are any.

        Raises:
            LeaseUnavailableError: the candidates cannot be asked for.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            target, may_come = self.find_successor()
            if target is not None or not may_come or time.monotonic() > deadline:
                return target
            time.sleep(SUCCESSOR_CHECK_S)

    def give(self, target: int, deadline: float) -> str:
        """Sends the lease to a node, with what that lacks, and waits until it has taken it. Commits are refused by now.

        Args:
            target: the node's id.
            deadline: when to give up, in monotonic seconds.

        Returns:
            "" if it has it; else why not: the lease is free, or a third node's.

        Raises:
            HandoffRefusedError: it cannot be moved, and is still ours.
            LeaseLostError: it was not ours.
            LeaseUnavailableError: whoever keeps the lease does not answer. Whose it is has to be found out.
        """
        lease_id = self._lease.hand_off()
        reason = "the target node did not take what it was sent"
        if self._duties.send_handoff(target, lease_id, deadline - time.monotonic()):
            reason = "the target node did not take the lease over"
            self._await_taking(lease_id, deadline)
        return reason if self._lease.withdraw(lease_id) else ""

    def _await_taking(self, lease_id: str, deadline: float) -> None:
        """Waits until the lease was taken over, or freed by whoever was to take it."""

        def is_waiting(holder: Holder | None) -> bool:
            own_url = self._identity.advertise_url
            return holder is not None and (holder.term, holder.advertise_url) == (lease_id, own_url)

        while (left_s := deadline - time.monotonic()) > 0.0:
            self._inbox.await_taking(lambda: not is_waiting(self._inbox.holder), left_s)
            if not is_waiting(self._inbox.holder):
                if not is_waiting(self._lease.holder()):
                    return
                self._inbox.sleep(ASKED_CHECK_S)  # the watcher is behind

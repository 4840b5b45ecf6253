"""What the roles of `roles.py` mean for the mount and for replication: the `Duties` of the role driver."""

import logging
import os
from collections.abc import Callable, Mapping

from litefs.errors import CorruptStateError, LinkSilentError, LockHeldError
from litefs.lease.lease import Holder
from litefs.link import messages as m
from litefs.node.caller import Caller
from litefs.node.election import freshness
from litefs.node.following import Following
from litefs.node.link_client import LinkClient
from litefs.node.streams import Streams
from litefs.storage.must_follow import MustFollow

_log = logging.getLogger("litefs.node")


class NodeDuties:
    """Carries out a role. Called by the role driver only."""

    def __init__(
        self,
        link: LinkClient,
        following: Following,
        caller: Caller,
        databases: Callable[[], Mapping[str, m.DatabaseInfo]],
        note: Callable[[list[m.DatabaseInfo]], None],
        is_silent: Callable[[], bool],
        must_follow: MustFollow,
        streams: Callable[[], Streams],
    ) -> None:
        """Keeps its arguments.

        Args:
            link: to the filesystem process.
            following: what a replica does.
            caller: this node, as primaries are to see it.
            databases: as last heard of.
            note: takes note of where all databases stand.
            is_silent: whether the filesystem process hangs.
            must_follow: the mark of the data directory.
            streams: those to replicas, as far as there are any yet.
        """
        self._is_silent = is_silent
        self._must_follow = must_follow
        self._link = link
        self._following = following
        self._caller = caller
        self._databases = databases
        self._note = note
        self._streams = streams

    def open_commits(self, until: float) -> None:
        """Tells the filesystem process."""
        self._link.send(m.SetRole(until))

    def await_open(self) -> None:
        """Asks something: answers come in the order of what was said.

        Raises:
            LinkSilentError: the filesystem process hangs.
        """
        self._link.call(m.AskCounters(), self._is_silent)

    def close_commits(self) -> None:
        """Tells the filesystem process, and takes note of the positions at which it stopped.

        Raises:
            LinkSilentError: it hangs.
        """
        if self._is_silent():
            raise LinkSilentError("the filesystem process does not answer")
        self._link.send(m.SetRole(0.0))
        # Answered behind the change of the role: what it says is final.
        answer = self._link.call(m.Hello(os.getpid()), self._is_silent)
        if not isinstance(answer, m.Welcome):
            raise CorruptStateError(f"unexpected answer to Hello: {answer}")
        self._note(answer.databases)

    def begin_to_lead(self) -> None:
        """Ends the stream and the appliers.

        Raises:
            LockHeldError: one of them does not end; applications could not write.
        """
        self._following.stop_receiving()
        if not self._following.let_go():
            raise LockHeldError("the appliers do not end")

    def follow(self, holder: Holder | None) -> None:
        """Starts the appliers if they do not run, and receives from `holder` if there is one.

        Raises:
            LockHeldError: the stream of another one does not end.
        """
        self._following.begin(self._databases())
        if holder is not None and holder.advertise_url:
            self._following.receive_from(holder, self._caller)

    def stop_receiving(self) -> None:
        """Ends the stream.

        Raises:
            LockHeldError: it does not end; what it brings would be in a log that applications write.
        """
        self._following.stop_receiving()

    def must_follow(self) -> bool:
        """Looks at the mark in the data directory, and removes it when a primary's state has replaced what was lost."""
        if not self._must_follow.is_set:
            return False
        state = self._following.state
        if state is None or not state.is_ready or self._following.catch_up(0.0):
            return True
        _log.info("this node has caught up with the primary, and may become primary again")
        self._must_follow.clear()
        return False

    def catch_up(self, timeout_s: float) -> str:
        """Waits for the appliers."""
        return self._following.catch_up(timeout_s)

    def freshness(self) -> int:
        """Counts the transactions in the logs."""
        return freshness(self._databases().values())

    def followers(self) -> Mapping[int, int]:
        """Asks the HTTP API."""
        return self._streams().followers()

    def send_handoff(self, node_id: int, lease_id: str, timeout_s: float) -> bool:
        """Asks the HTTP API."""
        return self._streams().send_handoff(node_id, lease_id, self._databases(), timeout_s)

"""What the roles of `roles.py` mean for the mount and for replication: the `Duties` of the role driver."""

import logging
import os
from collections.abc import Callable, Mapping

from litefs.errors import CorruptStateError, LockHeldError
from litefs.lease.lease import Holder
from litefs.link import messages as m
from litefs.node.election import freshness
from litefs.node.following import Following
from litefs.node.link_client import LinkClient
from litefs.node.streams import NoStreams, Streams

_log = logging.getLogger("litefs.node")


class NodeDuties:
    """Carries out a role. Called by the role driver only."""

    def __init__(
        self,
        link: LinkClient,
        following: Following,
        node_id: int,
        databases: Callable[[], Mapping[str, m.DatabaseInfo]],
        note: Callable[[list[m.DatabaseInfo]], None],
    ) -> None:
        """Args: databases: as last heard of; note: takes note of where all databases stand."""
        self._link = link
        self._following = following
        self._node_id = node_id
        self._databases = databases
        self._note = note
        self.streams: Streams = NoStreams()

    def open_commits(self, until: float) -> None:
        """Tells the filesystem process."""
        self._link.send(m.SetRole(until))

    def close_commits(self) -> None:
        """Tells the filesystem process, and takes note of the positions at which it stopped."""
        self._link.send(m.SetRole(0.0))
        # Answered behind the change of the role: what it says is final.
        answer = self._link.call(m.Hello(os.getpid()))
        if not isinstance(answer, m.Welcome):
            raise CorruptStateError(f"unexpected answer to Hello: {answer}")
        self._note(answer.databases)

    def begin_to_lead(self) -> None:
        """Ends the appliers.

        Raises:
            LockHeldError: one of them does not end; applications could not write.
        """
        self._following.stop_receiving()
        if not self._following.let_go():
            raise LockHeldError("the appliers do not end")

    def follow(self, holder: Holder | None) -> None:
        """Starts the appliers if they do not run, and receives from `holder` if there is one."""
        self._following.begin(self._databases())
        if holder is not None and holder.advertise_url:
            self._following.receive_from(holder, self._node_id)

    def stop_receiving(self) -> None:
        """Ends the stream."""
        self._following.stop_receiving()

    def catch_up(self, timeout_s: float) -> str:
        """Waits for the appliers."""
        return self._following.catch_up(timeout_s)

    def freshness(self) -> int:
        """Counts the transactions in the logs."""
        return freshness(self._databases().values())

    def followers(self) -> Mapping[int, int]:
        """Asks the HTTP API."""
        return self.streams.followers()

    def send_handoff(self, node_id: int, lease_id: str, timeout_s: float) -> bool:
        """Asks the HTTP API."""
        return self.streams.send_handoff(node_id, lease_id, self._databases(), timeout_s)

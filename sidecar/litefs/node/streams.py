"""What the node asks of the replication streams that its HTTP API serves."""

from collections.abc import Mapping
from typing import Protocol

from litefs.link.messages import DatabaseInfo


class Streams(Protocol):
    """The streams to this node's replicas. Every method may be called from any thread but the server's own."""

    def followers(self) -> Mapping[int, int]:
        """Returns the replicas that have caught up once, by node id, with the sum of the TXIDs sent to each."""

    def send_handoff(
        self, node_id: int, lease_id: str, databases: Mapping[str, DatabaseInfo], timeout_s: float
    ) -> bool:
        """Sends a replica what it lacks of `databases`, then the lease, and ends its stream.

        Returns:
            Whether the last byte was handed to the kernel in time. False: the replica may get it nevertheless, so the
            lease must be withdrawn.
        """

    def role_changed(self) -> None:
        """Ends the streams of a node that is not primary any more."""


class NoStreams:
    """Stands for the streams until the HTTP API is there."""

    def followers(self) -> Mapping[int, int]:
        """Returns none."""
        return {}

    def send_handoff(
        self, node_id: int, lease_id: str, databases: Mapping[str, DatabaseInfo], timeout_s: float
    ) -> bool:
        """Refuses."""
        return False

    def role_changed(self) -> None:
        """Has nothing to end."""

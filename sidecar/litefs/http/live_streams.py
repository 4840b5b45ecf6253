"""The replication streams that are open now, for the node, which hands its lease over through one of them."""

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import CancelledError

from litefs.http.feed import CommitFeed
from litefs.http.log_needs import LogNeeds
from litefs.http.pump import Write
from litefs.http.replication import ReplicationStream
from litefs.link.messages import DatabaseInfo


class LiveStreams:
    """What `node/streams.py` asks for. Made and filled on the event loop's thread, asked from others."""

    def __init__(self, feed: CommitFeed, needs: LogNeeds) -> None:
        """Args: feed: of the node's commits; needs: takes note of who follows."""
        self._feed = feed
        self._needs = needs
        self._loop = asyncio.get_running_loop()
        self._streams: list[ReplicationStream] = []

    async def run(self, stream: ReplicationStream, write: Write) -> None:
        """Runs a stream to its end, listed meanwhile."""
        self._streams.append(stream)
        try:
            with self._needs.of(stream.follower):
                await stream.run(write)
        finally:
            self._streams.remove(stream)

    # ---- from other threads ----

    def followers(self) -> Mapping[int, int]:
        """Returns the replicas that have caught up once, by node id, with the sum of the TXIDs sent to each."""
        found: dict[int, int] = {}
        for stream in list(self._streams):
            follower = stream.follower
            with contextlib.suppress(ValueError):  # it did not say who it is
                if follower.ready:
                    found[int(follower.node_id, 16)] = sum(pos.txid for pos in list(follower.positions.values()))
        return found

    def send_handoff(
        self, node_id: int, lease_id: str, databases: Mapping[str, DatabaseInfo], timeout_s: float
    ) -> bool:
        """Sends a replica what it lacks of `databases`, then the lease. Returns whether that was in time."""
        sending = asyncio.run_coroutine_threadsafe(self._hand_off(node_id, lease_id, databases), self._loop)
        try:
            return sending.result(timeout_s)
        except (TimeoutError, CancelledError):
            sending.cancel()
            return False

    def role_changed(self) -> None:
        """Has every stream look whether this node is still primary."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the streams with it
            self._loop.call_soon_threadsafe(self._feed.wake)

    async def _hand_off(self, node_id: int, lease_id: str, databases: Mapping[str, DatabaseInfo]) -> bool:
        for stream in reversed(self._streams):  # a replica that called again: the older connection is dead
            if stream.follower.node_id == f"{node_id:016X}" and stream.follower.ready:
                for database in databases.values():
                    self._feed.publish(database)
                return await stream.hand_off(lease_id)
        return False

"""Long polls of `GET /status`: who asks is answered when there is news of the node.

Strategy: the node is looked at, which costs microseconds, because its standing comes from many places and from the
clock: a replica is cut off when nothing happens.
"""

import asyncio

from litefs.http.feed import CommitFeed
from litefs.http.node_view import NodeView
from litefs.http.status import standing_of

LOOK_S = 0.2
"""How late news is told at most."""

WAITERS_MAX = 64
"""More are answered at once. The operator is one; what it leaves when it asks anew waits to its end."""


class StatusWaiters:
    """Those who wait for news of a node. For one event loop."""

    def __init__(self, node: NodeView, feed: CommitFeed) -> None:
        """Args: feed: ends with the service, and then nobody is kept waiting."""
        self._node = node
        self._feed = feed
        self._waiting_n = 0

    async def wait(self, known: str, wait_s: float) -> None:
        """Returns when the node's standing is not the one that is known, or after `wait_s` seconds."""
        if self._waiting_n >= WAITERS_MAX:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        self._waiting_n += 1
        try:
            while not self._feed.closed and standing_of(self._node.status()) == known:
                left_s = end - loop.time()
                if left_s <= 0.0:
                    return
                await asyncio.sleep(min(left_s, LOOK_S))
        finally:
            self._waiting_n -= 1

"""Carries news of commits from the threads of the node to the subscribers on the event loop.

Strategy: the feed keeps the last known position of every database. A subscriber has a set of names that
moved since it last looked, and one wake-up; so a slow subscriber costs a set of names and not a queue of
commits, and misses no position, for it reads the newest one when it gets there.

Rules of this file: everything but `_on_committed` runs on the event loop's thread.
"""

import asyncio
import contextlib
from collections import Counter

from litefs.http.node_view import NodeView
from litefs.link.messages import Committed, DatabaseInfo


class Subscription:
    """The databases that moved since the subscriber last took note, and the wake-up for it."""

    def __init__(self, names: set[str]) -> None:
        """Args: names: databases to report at first."""
        self._names = names
        self._wake = asyncio.Event()
        self.closed = False
        """The feed ends: what is left in `take` is the last."""

    def add(self, name: str) -> None:
        """Notes that a database moved."""
        self._names.add(name)
        self._wake.set()

    def wake(self) -> None:
        """Ends a wait, though nothing moved."""
        self._wake.set()

    def close(self) -> None:
        """Tells the subscriber that nothing more will come."""
        self.closed = True
        self._wake.set()

    async def wait(self, timeout_s: float) -> None:
        """Returns when there is something to take, when the feed has closed, or after `timeout_s` seconds."""
        if self._names or self.closed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()

    def take(self) -> set[str]:
        """Returns the names that moved since the last call."""
        names, self._names = self._names, set()
        return names


class CommitFeed:
    """The last known position of each database, and who wants to hear of changes."""

    def __init__(self, node: NodeView) -> None:
        """Listens to `node`. Must be called on the event loop's thread."""
        self._node = node
        self.positions: dict[str, DatabaseInfo] = {}
        self.commit_n: Counter[str] = Counter()
        """Transactions committed here, per database, since this process started."""
        self._subscriptions: set[Subscription] = set()
        self.closed = False
        """The service ends."""
        self._loop = asyncio.get_running_loop()
        node.on_committed(self._on_committed)
        # Not before: so a commit in between is reported twice, and never missed.
        self.positions.update(node.databases())

    def subscribe(self) -> Subscription:
        """Returns a subscription that reports every database once at first."""
        subscription = Subscription(set(self.positions))
        if self.closed:
            subscription.close()
        if not self._subscriptions:
            self._node.set_listening(True)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription; unknown ones are ignored."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            if not self._subscriptions:
                self._node.set_listening(False)

    @property
    def subscriber_n(self) -> int:
        """How many subscriptions there are."""
        return len(self._subscriptions)

    def wake(self) -> None:
        """Has all subscribers look around, though nothing moved."""
        for subscription in self._subscriptions:
            subscription.wake()

    def close(self) -> None:
        """Ends all subscriptions, present and future: their holders finish what they have begun."""
        self.closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def _on_committed(self, event: Committed) -> None:
        if not self.closed:
            with contextlib.suppress(RuntimeError):  # the loop has ended; so has everyone who would listen
                self._loop.call_soon_threadsafe(self.publish, event.database)

    def publish(self, database: DatabaseInfo) -> None:
        """Takes note of where a database stands, and tells the subscribers."""
        before = self.positions.get(database.name)
        self.positions[database.name] = database
        if self._node.status().is_primary:
            self.commit_n[database.name] += max(database.txid - (before.txid if before is not None else 0), 0)
        for subscription in self._subscriptions:
            subscription.add(database.name)

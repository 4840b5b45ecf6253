"""What replicas still need of this node's logs, for the filesystem process, which removes what is old.

Strategy: a follower needs what comes behind the position it is known to have. What was sent a moment ago may have been
lost with its connection, so its position counts as it was half a minute before. One that went is remembered for a
while. Said when a follower comes or goes, and every few seconds if it changed; until it is said again it stands. Those
who are connected and have everything need nothing said: what they miss next is younger than any retention.

A restart of this process forgets who is away.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from litefs.http.feed import CommitFeed
from litefs.http.followers import FOLLOWERS_MAX, Follower
from litefs.http.node_view import NodeView
from litefs.link.messages import KeepLogs

SAY_EVERY_S = 5.0

RECEIVED_AFTER_S = 30.0
"""What was sent so long ago was received, or the connection is dropped: `replication.BEHIND_DEAD_AFTER_S`."""

AWAY_MAX = FOLLOWERS_MAX
"""Replicas that are remembered, those that went last; each costs up to its map of positions."""

DATABASES_MAX = 4096
"""Those that are furthest behind: with the longest names and all replicas in each, 3.5 MB to say."""

Positions = Mapping[str, int]
"""TXIDs by database."""


@dataclass(slots=True)
class _Progress:
    """Positions of one follower at three times; older ones count more."""

    node_id: str
    oldest: Positions
    older: Positions = field(default_factory=dict)
    since_s: float = 0.0

    def move_on(self, newest: Positions, now_s: float) -> None:
        if now_s - self.since_s >= RECEIVED_AFTER_S:
            self.oldest, self.older, self.since_s = self.older, newest, now_s

    def known(self, newest: Positions) -> Positions:
        return {**newest, **self.older, **self.oldest}


class LogNeeds:
    """The followers that are connected or were lately, and how far behind they are. On the event loop's thread."""

    def __init__(
        self,
        node: NodeView,
        feed: CommitFeed,
        remembered_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: remembered_s: how long one that went is waited for; clock: monotonic seconds."""
        self._node = node
        self._feed = feed
        self._remembered_s = remembered_s
        self._clock = clock
        self._connected: dict[Follower, _Progress] = {}
        self._away: dict[str, tuple[float, Positions]] = {}
        self._said: dict[str, list[int]] | None = None  # what a process before this one said still stands

    @contextmanager
    def of(self, follower: Follower) -> Iterator[None]:
        """Counts a follower within the block, and remembers it afterwards."""
        progress = _Progress(follower.node_id, _txids(follower), _txids(follower), self._clock())
        self._connected[follower] = progress
        self._away.pop(follower.node_id, None)
        self.say()
        try:
            yield
        finally:
            del self._connected[follower]
            if follower.node_id and not any(other.node_id == follower.node_id for other in self._connected.values()):
                self._away[follower.node_id] = (self._clock(), progress.known(_txids(follower)))
                while len(self._away) > AWAY_MAX:
                    del self._away[next(iter(self._away))]
                self.say()

    async def keep_saying(self) -> None:
        """Says what changed, for ever."""
        while True:
            await asyncio.sleep(SAY_EVERY_S)
            self.say()

    def say(self) -> None:
        """Tells the filesystem process what is needed now, if that has changed."""
        needed = self._needed()
        if needed != self._said:
            self._said = needed
            self._node.send(KeepLogs(needed))

    def _needed(self) -> dict[str, list[int]]:
        now_s = self._clock()
        for node_id, (went_s, _) in list(self._away.items()):
            if now_s - went_s > self._remembered_s:
                del self._away[node_id]
        needed: dict[str, set[int]] = defaultdict(set)
        for _, positions in self._away.values():
            for name, txid in positions.items():
                if 0 < txid <= self._newest(name):
                    needed[name].add(txid)
        for follower, progress in self._connected.items():
            newest = _txids(follower)
            progress.move_on(newest, now_s)
            for name, txid in progress.known(newest).items():
                if 0 < txid < self._newest(name):
                    needed[name].add(txid)
        names = list(needed)
        if len(names) > DATABASES_MAX:
            names = sorted(names, key=lambda name: min(needed[name]) - self._newest(name))[:DATABASES_MAX]
        return {name: sorted(needed[name]) for name in names}

    def _newest(self, name: str) -> int:
        database = self._feed.positions.get(name)
        return database.txid if database is not None else 0


def _txids(follower: Follower) -> Positions:
    return {name: pos.txid for name, pos in follower.positions.items()}

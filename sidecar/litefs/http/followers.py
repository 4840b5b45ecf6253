"""The replicas that follow this node, and what was sent to them."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from litefs.formats.position import Pos
from litefs.http.errors import TooManyStreamsError
from litefs.link.messages import DatabaseInfo

FOLLOWERS_MAX = 64
"""Each costs a connection, up to 2 MiB while it is sent a snapshot, and a wake-up per commit."""

FrameKind = Literal["ltx", "ltx:snapshot"]
"""How LiteFS's metrics call the two kinds of LTX frames."""


@dataclass(slots=True, eq=False)
class Follower:
    """What is known of the node at the other end of a stream.

    Attributes:
        node_id: as it introduced itself, 16 hexadecimal digits; "" if it did not.
        address: host and port it called from.
        positions: where it is, by what it said at first and what was sent to it since.
        ready: it has been brought to our position once.
        sent_bytes: of the body, so far.
        since: monotonic seconds at which it called.
        names: the only databases it wants; all if None.
        has_channels: it knows `formats/stream_channels.py`.
    """

    node_id: str
    address: str
    positions: dict[str, Pos]
    ready: bool = False
    sent_bytes: int = 0
    since: float = field(default_factory=time.monotonic)
    names: frozenset[str] | None = None
    has_channels: bool = False

    def behind_n(self, databases: Mapping[str, DatabaseInfo]) -> int:
        """Returns how many transactions have not been sent to it yet, over all databases."""
        positions = self.positions
        return sum(
            max(database.txid - (positions[name].txid if name in positions else 0), 0)
            for name, database in databases.items()
        )


class Followers:
    """Who is connected now, and how many LTX frames were sent since the process started."""

    def __init__(self) -> None:
        """Begins without followers."""
        self.connected: list[Follower] = []
        self.frame_counts: Counter[tuple[str, FrameKind]] = Counter()
        """LTX frames sent, by database and kind."""
        self.silent_n = 0
        """Connections that were dropped because the follower gave no sign of life any more."""

    def check_room(self) -> None:
        """Checks that one more follower can be served.

        Raises:
            TooManyStreamsError: `FOLLOWERS_MAX` are connected.
        """
        if len(self.connected) >= FOLLOWERS_MAX:
            raise TooManyStreamsError(f"{FOLLOWERS_MAX} replicas follow this node already")

    @contextmanager
    def listed(self, follower: Follower) -> Iterator[None]:
        """Lists a follower as connected within the block."""
        self.connected.append(follower)
        try:
            yield
        finally:
            self.connected.remove(follower)

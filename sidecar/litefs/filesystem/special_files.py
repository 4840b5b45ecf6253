"""The files that the server writes itself: positions, the lag, the primary's name.

Their bytes are those of LiteFS 0.5, for scripts that read them.
"""

import time
from dataclasses import dataclass

from litefs.filesystem.inodes import Inode, Kind
from litefs.formats.position import Checksum, Pos, Txid

LAG_SIZE = 11
NOT_READY_LAG_MS = 2147483647


@dataclass(slots=True)
class ClusterView:
    """What the node process told us about the cluster.

    Attributes:
        is_primary: this node may commit.
        primary: host name of the primary; empty on the primary, or while none is known.
        primary_timestamp_ms: newest time stamp heard from it; -1 while this replica is not ready.
    """

    is_primary: bool = False
    primary: str = ""
    primary_timestamp_ms: int = -1

    def lag_text(self) -> bytes:
        """Returns the content of `.lag`: signed milliseconds."""
        if self.is_primary:
            lag_ms = 0
        elif self.primary_timestamp_ms < 0:
            lag_ms = NOT_READY_LAG_MS
        else:
            lag_ms = time.time_ns() // 1_000_000 - self.primary_timestamp_ms
        return b"%+010d\n" % lag_ms


def special_content(inode: Inode, view: ClusterView) -> bytes:
    """Returns what a special file holds right now."""
    if inode.kind is Kind.POS and inode.served is not None:
        txid, checksum = inode.served.database.shown_position
        return str(Pos(txid=Txid(txid), checksum=Checksum(checksum))).encode() + b"\n"
    if inode.kind is Kind.LAG:
        return view.lag_text()[:LAG_SIZE]
    if inode.kind is Kind.PRIMARY:
        return view.primary.encode() + b"\n"
    return b""

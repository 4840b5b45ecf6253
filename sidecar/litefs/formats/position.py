"""Where a database stands: the number of its last transaction and the checksum of all its pages.

A position is *both*: two branches of history can reach the same txid, and only the checksum tells them apart.
Text form: 16 hex digits, a slash, 16 hex digits, both zero for a database that was never written.

Source: superfly/ltx v0.3.14.
"""

from dataclasses import dataclass
from typing import NewType

Txid = NewType("Txid", int)
"""A transaction number, 1 and up, one higher per commit; 0 means "before the first"."""

Pgno = NewType("Pgno", int)
"""A page number, 1 and up."""

Checksum = NewType("Checksum", int)
"""A 64-bit checksum of a page, a database or a file; bit 63 is set in all that are present, 0 is "none"."""

NodeId = NewType("NodeId", int)
"""The 64-bit random number by which a node is known; 0 is "no node"."""

NO_NODE = NodeId(0)
"""Stands where no node is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pos:
    """A position: `txid` transactions were applied and the database then has `checksum`.

    Both are unsigned 64-bit. `checksum` is 0 only where txid is 0.
    """

    txid: Txid
    checksum: Checksum

    def __str__(self) -> str:
        """Returns the 33 characters of the text form, in lower case."""
        return f"{self.txid:016x}/{self.checksum:016x}"


ZERO_POS = Pos(txid=Txid(0), checksum=Checksum(0))
"""The position of a database that was never written."""

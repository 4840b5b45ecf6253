"""The cluster's id: made once by the first primary, adopted by its replicas, and checked ever after.

`<data>/clusterid` holds `LFSC` and 16 upper hexadecimal digits.
"""

import re
import secrets
from pathlib import Path

from litefs.errors import CorruptStateError, PeerRefusedError
from litefs.storage.disk import Disk

_PATTERN = re.compile(r"^LFSC[0-9A-F]{16}$")


class ClusterId:
    """The id as kept in a data directory; `text` is empty while none is known."""

    def __init__(self, data_dir: Path) -> None:
        """Reads it.

        Raises:
            CorruptStateError: the file holds something else.
        """
        self._path = data_dir / "clusterid"
        try:
            self.text = self._path.read_text().strip()
        except FileNotFoundError:
            self.text = ""
        if self.text and not _PATTERN.match(self.text):
            raise CorruptStateError(f"{self._path}: {self.text!r} is no cluster id")

    def make(self) -> None:
        """Makes one, unless there is one: the primary of a new cluster does."""
        if not self.text:
            self._write(f"LFSC{secrets.randbits(64):016X}")

    def check(self, theirs: str) -> None:
        """Compares with what a primary says, and adopts it if none is known here.

        Raises:
            PeerRefusedError: it is another cluster; nothing may be taken from it.
        """
        if not theirs or theirs == self.text:
            return
        if not _PATTERN.match(theirs):
            raise PeerRefusedError(f"the primary's cluster id {theirs!r} is none")
        if self.text:
            raise PeerRefusedError(f"the primary belongs to cluster {theirs}, this node to {self.text}")
        self._write(theirs)

    def _write(self, text: str) -> None:
        Disk().replace_file("cluster_id", self._path, text.encode() + b"\n")
        self.text = text

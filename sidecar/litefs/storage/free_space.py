"""Room for a transaction, asked for before it begins: later SQLite has no word for a full disk but "I/O error".

Strategy: the first write of a transaction (the header of its journal, its first WAL frame) and then every so many of
its pages ask whether what it needs so far fits. ENOSPC from such a write is "database or disk is full". What the file
system said is believed for `BELIEVED_S`, so that a transaction costs a look at the clock.

Guarantees: none. Another program may fill the disk a moment later: then the commit is refused, as ever.
"""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from litefs.storage.disk import Disk

RESERVE_BYTES = 4 << 20
"""Kept free for what is not asked: state files, spilled journals, the base file catching up, replicated images."""

BELIEVED_S = 0.01
ASK_PAGES = 64
"""A transaction asks again after so many pages."""


class FreeSpace:
    """What is left of the file system of a data directory. One for all databases: they fill the same one."""

    def __init__(self, disk: Disk, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: clock: monotonic seconds."""
        self._disk = disk
        self._directory = directory
        self._clock = clock
        self._asked_s = -BELIEVED_S
        self._free_bytes = 0

    def check(self, needed_bytes: int) -> None:
        """Does nothing if `needed_bytes` fit and leave the reserve.

        Raises:
            OSError: ENOSPC.
        """
        now = self._clock()
        if now - self._asked_s >= BELIEVED_S:
            self._asked_s = now
            self._free_bytes = self._disk.free_bytes("space.free", self._directory)
        if self._free_bytes < RESERVE_BYTES + needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._directory))

"""A whole new state of a database, written beside the old one before it replaces it.

Strategy: pages go straight to their place in `database.incoming`, their checksums to
`database.incoming.sums` (u64 little-endian, page `pgno` at index `pgno - 1`), so that the filesystem
process can take the state over without reading it again. Nothing refers to these files until
`replacement` has written `state.next`; left-overs of a crash are overwritten or removed.
"""

import os
import sys
from array import array
from pathlib import Path

from litefs.errors import FormatError
from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, lock_pgno, page_checksums
from litefs.formats.position import Checksum
from litefs.storage.disk import Buffer, Disk

INCOMING_NAME = "database.incoming"
SUMS_NAME = "database.incoming.sums"


class IncomingDatabase:
    """Takes the pages of a new state in ascending runs. Every page of 1..page_n but the lock page must come."""

    def __init__(self, db_dir: Path, page_size: int, page_n: int, disk: Disk | None = None) -> None:
        """Args: db_dir: `<data>/dbs/<name>`, made if missing; page_size: bytes; page_n: pages in all."""
        self._disk = disk or Disk()
        self._directory = db_dir
        self._page_size = page_size
        self._page_n = page_n
        self._lock_pgno = lock_pgno(page_size)
        self._sums: array[int] = array("Q")
        self._disk.make_directory("incoming.directory", db_dir)
        self._fd = self._disk.open("incoming.open", db_dir / INCOMING_NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def write_pages(self, first_pgno: int, data: Buffer) -> None:
        """Writes a contiguous run of whole pages that follows the last one.

        Raises:
            FormatError: the run does not follow, or goes beyond the last page.
            OSError: the disk is full or failed.
        """
        if first_pgno == len(self._sums) + 2 and first_pgno == self._lock_pgno + 1:
            self._sums.append(0)
        if first_pgno != len(self._sums) + 1 or len(data) % self._page_size:
            raise FormatError(f"page {first_pgno} does not follow page {len(self._sums)} of a new state")
        self._disk.write("incoming.write", self._fd, data, (first_pgno - 1) * self._page_size)
        self._sums.extend(page_checksums(data, self._page_size, first_pgno))
        if len(self._sums) > self._page_n:
            raise FormatError(f"{len(self._sums)} pages, {self._page_n} were announced")

    def finish(self) -> Checksum:
        """Makes both files durable. Returns the checksum of the whole database.

        Raises:
            FormatError: pages are missing.
            OSError: the disk is full or failed.
        """
        if len(self._sums) == self._page_n - 1 and self._page_n == self._lock_pgno:
            self._sums.append(0)
        if len(self._sums) != self._page_n:
            raise FormatError(f"{len(self._sums)} of {self._page_n} pages of a new state")
        self._disk.truncate("incoming.truncate", self._fd, self._page_n * self._page_size)
        self._disk.sync("incoming.sync", self._fd)
        if sys.byteorder != "little":
            self._sums.byteswap()
        self._disk.replace_file("incoming.sums", self._directory / SUMS_NAME, self._sums.tobytes())
        checksum = Checksum(database_checksum(self._sums) | CHECKSUM_FLAG)
        self.close()
        return checksum

    def abort(self) -> None:
        """Removes what was written."""
        self.close()
        for name in (INCOMING_NAME, SUMS_NAME):
            if (self._directory / name).exists():
                self._disk.unlink("incoming.abort", self._directory / name)

    def close(self) -> None:
        """Closes the file and leaves it."""
        if self._fd >= 0:
            self._disk.close("incoming.close", self._fd)
            self._fd = -1


def read_sums(db_dir: Path, page_n: int) -> "array[int]":
    """Returns the page checksums that `finish` wrote.

    Raises:
        FormatError: not as many as pages.
    """
    sums: array[int] = array("Q")
    data = (db_dir / SUMS_NAME).read_bytes()
    sums.frombytes(data)
    if sys.byteorder != "little":
        sums.byteswap()
    if len(sums) != page_n:
        raise FormatError(f"{db_dir / SUMS_NAME}: {len(sums)} checksums for {page_n} pages")
    return sums

"""A whole new state of a database, written beside the old one before it replaces it.

Strategy: pages go straight to their place in `incoming-<pid>-<random>`, their checksums to a file beside it
(u64 little-endian, page `pgno` at index `pgno - 1`), so that the filesystem process can take the state over
without reading it again. Each new state has a name of its own, for a load, an import and a snapshot may be on
their way at once, and says which process makes it. Nothing refers to these files until `replacement` has written
`state.next`; left-overs of a crash are removed by the next start, those of a dead node process when its successor
says Hello (`replacement.discard_unfinished`).
"""

import os
import secrets
import sys
from array import array
from collections.abc import Iterable
from pathlib import Path

from litefs.errors import FormatError
from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, lock_pgno, page_checksums
from litefs.formats.position import Checksum
from litefs.storage.disk import Buffer, Disk

INCOMING_PREFIX = "incoming-"
SUMS_SUFFIX = ".sums"


def new_incoming_name() -> str:
    """Returns the name of a file that no other state on its way has."""
    return _prefix_of(os.getpid()) + secrets.token_hex(8)


def find_incoming(directories: Path, but_of: Iterable[int]) -> list[Path]:
    """Returns the new states below `directories` that no process of the pids `but_of` makes, with their sums."""
    prefixes = tuple(map(_prefix_of, but_of))
    return [path for path in directories.glob(f"*/{INCOMING_PREFIX}*") if not path.name.startswith(prefixes)]


def _prefix_of(pid: int) -> str:
    return f"{INCOMING_PREFIX}{pid}-"


class IncomingDatabase:
    """Takes the pages of a new state in ascending runs. Every page of 1..page_n but the lock page must come.

    `name`: of the file in the database's directory, for whoever prepares the replacement.
    """

    def __init__(self, db_dir: Path, page_size: int, page_n: int, disk: Disk | None = None) -> None:
        """Args: db_dir: `<data>/dbs/<name>`, made if missing; page_size: bytes; page_n: pages in all."""
        self._disk = disk or Disk()
        self._directory = db_dir
        self.name = new_incoming_name()
        self._page_size = page_size
        self._page_n = page_n
        self._lock_pgno = lock_pgno(page_size)
        self._sums: array[int] = array("Q")
        self._disk.make_directory("incoming.directory", db_dir)
        self._fd = self._disk.open("incoming.open", db_dir / self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

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
        self._disk.replace_file("incoming.sums", self._directory / (self.name + SUMS_SUFFIX), self._sums.tobytes())
        checksum = Checksum(database_checksum(self._sums) | CHECKSUM_FLAG)
        self.close()
        return checksum

    def abort(self) -> None:
        """Removes what was written. Not once a replacement may have been prepared with it."""
        self.close()
        discard_incoming(self._disk, self._directory, self.name)

    def close(self) -> None:
        """Closes the file and leaves it."""
        if self._fd >= 0:
            self._disk.close("incoming.close", self._fd)
            self._fd = -1


def discard_incoming(disk: Disk, db_dir: Path, name: str) -> None:
    """Removes a new state that will not be put in place."""
    for path in (db_dir / name, db_dir / (name + SUMS_SUFFIX)):
        if path.exists():
            disk.unlink("incoming.discard", path)


def read_sums(db_dir: Path, name: str, page_n: int) -> "array[int]":
    """Returns the page checksums that `finish` wrote for the state `name`.

    Raises:
        FormatError: not as many as pages.
    """
    sums: array[int] = array("Q")
    path = db_dir / (name + SUMS_SUFFIX)
    sums.frombytes(path.read_bytes())
    if sys.byteorder != "little":
        sums.byteswap()
    if len(sums) != page_n:
        raise FormatError(f"{path}: {len(sums)} checksums for {page_n} pages")
    return sums

"""One database as an ordinary client of the mount sees it: its paths and one descriptor, kept open.

Guarantees: the descriptor stays open between transactions, so that an apply costs no open and no close; the
locks of both appliers live on it, so that a change of journal mode can turn SHARED into EXCLUSIVE in place.
Assumes: this process never opens SQLite on the mount.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from litefs.errors import LockHeldError
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE
from litefs.node import locks

RUN_BYTES_MAX = 1 << 20
"""One write of the FUSE kernel module carries at most this much (256 pages of 4 KiB)."""
RUN_BUFFERS_MAX = 1000
"""Below IOV_MAX (1024), the kernel's bound on buffers in one vectored write."""
FILE_MODE = 0o666
"""Asked for, and seen on a plain directory only: in a mount, what we make takes after the database, or the root."""

Page = tuple[int, bytes | memoryview]
"""(pgno, content)."""


def write_fully(fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
    """Writes buffers one after the other at `offset`, whatever the kernel takes at once.

    Args:
        fd: open for writing.
        buffers: at most `RUN_BUFFERS_MAX`.
        offset: bytes from the start of the file.

    Raises:
        OSError: the kernel refused; some bytes may have been written.
    """
    written = os.pwritev(fd, buffers, offset)
    total = sum(map(len, buffers))
    if written < total:
        rest = memoryview(b"".join(buffers))
        while written < total:
            written += os.pwrite(fd, rest[written:], offset + written)


class MountedDatabase:
    """Paths and descriptor of one database in the mount."""

    def __init__(self, mount_dir: str, name: str) -> None:
        """Args: mount_dir: absolute path of the mount point; name: file name of the database in it."""
        self.name = name
        self.path = os.path.join(mount_dir, name)
        self.journal_path = self.path + "-journal"
        self.wal_path = self.path + "-wal"
        self.shm_path = self.path + "-shm"
        self._fd = -1

    def open(self, *, create: bool = False) -> int:
        """Returns the descriptor, opening the file the first time.

        Raises:
            FileNotFoundError: there is no such database and `create` is not set.
        """
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
            self._fd = os.open(self.path, flags, FILE_MODE)
        return self._fd

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor."""
        return self._fd >= 0

    def close(self) -> None:
        """Closes the descriptor, which releases its locks. The next `open` takes the file that has the name then."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def size_bytes(self) -> int:
        """Returns the size of the database file."""
        return os.fstat(self._fd).st_size

    def header(self) -> bytes:
        """Returns the first 100 bytes, fewer if the file is shorter; empty when there is no database."""
        try:
            return os.pread(self.open(), DATABASE_HEADER_SIZE, 0)
        except FileNotFoundError:
            return b""

    def write_pages(self, pages: Iterable[Page], page_size: int) -> None:
        """Writes pages into the database file, contiguous ones in one system call.

        Args:
            pages: in ascending order.
            page_size: in bytes, of every page.

        Raises:
            OSError: the mount refused a write; some pages may have been written.
        """
        fd = self._fd
        run: list[bytes | memoryview] = []
        run_max = min(max(RUN_BYTES_MAX // page_size, 1), RUN_BUFFERS_MAX)
        first = following = 0
        for pgno, data in pages:
            if pgno != following or len(run) == run_max:
                if run:
                    write_fully(fd, run, (first - 1) * page_size)
                run = []
                first = pgno
            run.append(data)
            following = pgno + 1
        if run:
            write_fully(fd, run, (first - 1) * page_size)

    def truncate(self, size: int) -> None:
        """Cuts or extends the file to `size` bytes; no call is made if it has that size."""
        if os.fstat(self._fd).st_size != size:
            os.ftruncate(self._fd, size)

    def remember_attributes(self) -> None:
        """Asks what each reader asks at its next transaction, so that the kernel knows it by then.

        That is whether there is a journal, and how long the database is: a transaction makes the kernel forget both.
        """
        os.path.lexists(self.journal_path)
        with suppress(OSError):
            os.fstat(self._fd)

    def lock_shared(self, timeout_s: float) -> None:
        """Takes SHARED as a reader does: through PENDING, so that a waiting writer goes first.

        Raises:
            LockHeldError: a writer was in the way for `timeout_s` seconds.
        """
        locks.read(self._fd, locks.PENDING, timeout_s)
        try:
            locks.read(self._fd, locks.SHARED, timeout_s)
        finally:
            locks.unlock(self._fd, locks.PENDING)

    def lock_reserved(self, timeout_s: float) -> None:
        """Takes RESERVED: nobody else writes, and whoever reads goes on.

        Raises:
            LockHeldError: a writer was in the way for `timeout_s` seconds.
        """
        locks.write(self._fd, locks.RESERVED, timeout_s)

    def lock_exclusive(self, timeout_s: float) -> None:
        """Takes PENDING, RESERVED and EXCLUSIVE: nobody else reads or writes until `unlock`.

        Strategy: all bytes at once when nobody is there, otherwise as SQLite's writer, step by step. A SHARED lock of
        ours is turned into EXCLUSIVE.

        Raises:
            LockHeldError: an application kept us from it for `timeout_s` seconds. SHARED is kept if it was
                held before, and nothing else.
        """
        if locks.try_write(self._fd, locks.DATABASE):
            return
        self.lock_reserved(timeout_s)
        try:
            self.upgrade(timeout_s)
        except LockHeldError:
            locks.unlock(self._fd, locks.RESERVED)
            raise

    def upgrade(self, timeout_s: float) -> None:
        """Turns RESERVED into EXCLUSIVE: PENDING keeps new readers out, then those who are in are waited for.

        Raises:
            LockHeldError: a reader kept us from it for `timeout_s` seconds. RESERVED is kept.
        """
        fd = self._fd
        if locks.try_write(fd, locks.DATABASE):
            return
        try:
            locks.write(fd, locks.PENDING, timeout_s)
            locks.write(fd, locks.SHARED, timeout_s)
        except LockHeldError:
            locks.unlock(fd, locks.PENDING)
            raise

    def downgrade(self) -> None:
        """Turns EXCLUSIVE into SHARED in place: at no moment can somebody else have it exclusively."""
        locks.read(self._fd, locks.SHARED, 0)
        locks.unlock(self._fd, locks.PENDING)
        locks.unlock(self._fd, locks.RESERVED)

    def unlock(self) -> None:
        """Releases every lock of the database file."""
        locks.unlock(self._fd, locks.DATABASE)

"""A database filled by plain file calls: `cp`, `VACUUM INTO`, an editor, SQLite's tests.

Strategy: such writes carry no transaction, so they go to a copy beside the base and readers see the
copy. When the file is synced or closed and is a whole SQLite database, the copy becomes the new base as
one transaction (`replacement`), and followers take a snapshot. Until then nothing is committed: after a
restart of the filesystem process the old state is back.
"""

import os
from array import array
from contextlib import suppress
from functools import partial

from litefs.errors import CommitRefusedError, FormatError, NotPrimaryError
from litefs.formats.checksum import page_checksums
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE, SqliteHeader
from litefs.storage.base_file import WRITE_RUN_BYTES
from litefs.storage.database import Database
from litefs.storage.incoming import new_incoming_name
from litefs.storage.replacement import flip_in_place, plan_in_place
from litefs.storage.steps import Steps

COPY_BYTES = 8 << 20
"""Copied by the kernel between two looks at who else wants to run."""


class RawLoad:
    """The bytes of a file under way to be a database."""

    def __init__(self, database: Database) -> None:
        """Begins with an empty file.

        Raises:
            OSError: the disk cannot take it.
        """
        self._database = database
        self._disk = database.disk
        self._name = new_incoming_name()
        self._fd = self._disk.open("load.open", database.directory / self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.size = 0
        self._dirty = True
        self.is_committing = False
        self._is_given_up = False

    def copy_present(self) -> Steps[None]:
        """Begins with the present content instead.

        Raises:
            CommitRefusedError: the database was committed to meanwhile. The load is of no use any more.
            OSError: the disk cannot take the copy, or the base its pages. The load is of no use any more.
        """
        database = self._database
        base, txid, size = database.base, database.txid, database.size
        yield from database.settle()
        with base.in_use():
            for offset in range(0, size, COPY_BYTES):
                step = min(COPY_BYTES, size - offset)
                yield partial(self._disk.copy, "load.copy", base.fd, self._fd, offset, offset, step)
        if database.base is not base or database.txid != txid or base.layers:
            raise CommitRefusedError(f"{database.name}: committed to while it was copied")
        self._disk.truncate("load.copy_size", self._fd, size)
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        """Reads the file as loaded so far."""
        return self._disk.read("load.read", self._fd, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Writes into the file.

        Raises:
            CommitRefusedError: it is being committed as it is.
            OSError: the disk cannot take it.
        """
        self._check_writable()
        self._disk.write("load.write", self._fd, data, offset)
        self.size = max(self.size, offset + len(data))
        self._dirty = True

    def truncate(self, size: int) -> None:
        """Sets the size of the file. Raises as `write`."""
        self._check_writable()
        self._disk.truncate("load.truncate", self._fd, size)
        self.size = size
        self._dirty = True

    def commit(self) -> Steps[bool]:
        """Makes the file the database, if it is one.

        Returns:
            False if the bytes are no whole SQLite database (yet): the load goes on.

        Raises:
            CommitRefusedError: this node may not commit. The load goes on.
            OSError: the disk failed. The load goes on.
        """
        database = self._database
        if not self._dirty or self.is_committing:
            return False
        if not self.size:
            if database.page_n:
                yield from database.clear()
            self.discard()
            return True
        shape = self._shape()
        if shape is None:
            self._dirty = False
            return False
        self.is_committing = True
        try:
            yield from self._commit(*shape)
        finally:
            self.is_committing = False
        self.close()
        return True

    def _commit(self, page_size: int, page_n: int) -> Steps[None]:
        database = self._database
        sums = yield lambda: self._checksums(page_size, page_n)
        if not database.gate.is_open:
            raise NotPrimaryError(f"{database.name}: this node is not the primary")
        planned = yield from plan_in_place(database, self._name, page_size, page_n, sums)
        yield from flip_in_place(database, planned)

    def give_up(self) -> None:
        """Asks a commit under way to end soon: the file is to be dropped. Wait for `is_committing` before `discard`."""
        self._is_given_up = True

    def close(self) -> None:
        """Closes the file, which may be the database by now; a start removes it otherwise."""
        if self._fd >= 0:
            self._disk.close("load.close", self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Closes and removes the file; not while a commit is under way, whose threads use it."""
        if self._fd >= 0:
            with suppress(OSError):  # the next start removes it
                self._disk.unlink("load.unlink", self._database.directory / self._name)
            self._disk.close_unnamed("load.close", self._fd)
            self._fd = -1

    def _check_writable(self) -> None:
        if self.is_committing:
            raise CommitRefusedError(f"{self._database.name}: written to while it is committed")

    def _shape(self) -> tuple[int, int] | None:
        """Returns (page size, pages) if the file is a whole SQLite database.

        Pages behind those that the header counts are kept: SQLite leaves such in files it allocates in chunks, and a
        header that counts too few may be about to be written anew.
        """
        try:
            header = SqliteHeader.parse(self.read(0, DATABASE_HEADER_SIZE))
        except FormatError:
            return None
        if self.size % header.page_size:
            return None
        page_n = self.size // header.page_size
        if header.is_page_n_valid and header.page_n > page_n:
            return None
        return header.page_size, page_n

    def _checksums(self, page_size: int, page_n: int) -> "array[int]":
        """Reads the whole file; syncs it. Runs off the loop."""
        sums: array[int] = array("Q")
        step = WRITE_RUN_BYTES - WRITE_RUN_BYTES % page_size
        for offset in range(0, page_n * page_size, step):
            if self._is_given_up:
                raise CommitRefusedError(f"{self._database.name}: dropped while it was committed")
            data = self._disk.read("load.verify", self._fd, min(step, page_n * page_size - offset), offset)
            sums.extend(page_checksums(data, page_size, offset // page_size + 1))
        self._disk.sync("load.sync", self._fd)
        return sums

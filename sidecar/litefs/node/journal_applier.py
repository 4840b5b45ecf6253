"""Applies a transaction to a rollback-mode database the way SQLite commits one.

Strategy: the pages that are about to be overwritten or cut off go into a real `-journal`, while applications go on
reading; then, under EXCLUSIVE, the new pages into the database file; the unlink of the journal is the commit. Batch by
batch, so that a transaction may be larger than memory: the journal's record count is "as many as the file holds", as
SQLite has it with `synchronous=OFF`.

Guarantees:
  A reader never sees half a transaction: if this process dies, its locks vanish and the journal is hot, so the next
  reader, or `roll_back_hot_journal`, restores what was (invariant 11).
Assumes: the caller holds RESERVED, or more; all locks are gone afterwards. Nothing is synced: the log of images is the
truth.

Source: SQLite 3.40, pager.c (pager_write, pager_playback, hasHotJournal).
"""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from litefs.errors import FormatError
from litefs.formats.checksum import lock_pgno
from litefs.formats.journal import (
    JOURNAL_HEADER_SIZE,
    RECORD_N_UNKNOWN,
    JournalReader,
    JournalWriter,
    is_active,
    super_journal_name,
)
from litefs.formats.sqlite_header import is_wal_mode
from litefs.node.mounted_database import FILE_MODE, RUN_BUFFERS_MAX, RUN_BYTES_MAX, MountedDatabase, Page, write_fully

LOCK_TIMEOUT_S = 0.5
"""How long one attempt waits for readers to go, new ones being kept out meanwhile."""


class JournalApplier:
    """Applies transactions to one database, and rolls back what a dead process left behind."""

    def __init__(
        self,
        database: MountedDatabase,
        hook: Callable[[str], None] = lambda _point: None,
        before_pages: Callable[[], None] = lambda: None,
    ) -> None:
        """Args:
        database: stays the caller's.
        hook: called at named points, so that a test can die there.
        before_pages: called while nothing but the journal was written; what it raises ends the transaction.
        """
        self._database = database
        self._hook = hook
        self._before_pages = before_pages
        self._is_exclusive = False

    def apply(self, pages: Iterable[Page], page_size: int, commit: int) -> None:
        """Commits one transaction, and unlocks the database.

        Args:
            pages: in ascending order.
            page_size: in bytes, of every page.
            commit: size of the database in pages afterwards, at least 1.

        Raises:
            FormatError: the database has another page size. Nothing was changed.
            LockHeldError: applications go on reading. Nothing was changed.
            OSError: the mount refused something; the database is as it was, or its journal is hot.

        Crash: before the journal's unlink, the journal is hot and the transaction is rolled back by whoever comes
        next; after it, the transaction stands.
        """
        journal_fd = -1
        try:
            fd = self._database.open()
            self._is_exclusive = False
            journal_fd = self._create_journal()
            self._write(fd, journal_fd, pages, page_size, commit)
        finally:
            self._database.unlock()
            if journal_fd >= 0:
                self._database.remember_attributes()
                os.close(journal_fd)  # last: its release is a request too, and readers have waited

    def _create_journal(self) -> int:
        # Not with O_EXCL: for that the kernel asks the server whether there is such a name, whatever it remembers.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        journal_fd = os.open(self._database.journal_path, flags, FILE_MODE)
        if os.fstat(journal_fd).st_size:
            os.close(journal_fd)
            self._take_exclusive()
            self.roll_back_hot_journal()
            journal_fd = os.open(self._database.journal_path, flags, FILE_MODE)
        return journal_fd

    def _write(self, fd: int, journal_fd: int, pages: Iterable[Page], page_size: int, commit: int) -> None:
        """Writes the transaction through its commit, or leaves everything as it was."""
        try:
            self._fill(fd, journal_fd, pages, page_size, commit)
            os.unlink(self._database.journal_path)
        except BaseException:
            if self._is_exclusive:
                self.roll_back_hot_journal()
            else:
                os.unlink(self._database.journal_path)  # while RESERVED says that it is not hot
            raise
        self._hook("journal-unlinked")

    def _take_exclusive(self) -> None:
        if not self._is_exclusive:
            self._database.upgrade(LOCK_TIMEOUT_S)
            self._is_exclusive = True

    def _fill(self, fd: int, journal_fd: int, pages: Iterable[Page], page_size: int, commit: int) -> None:
        """Writes journal and pages, up to the commit."""
        # Not before there is a journal of ours: a hot one was played back for it, and then the size is another.
        size = self._database.size_bytes()
        page_n = size // page_size
        if size % page_size:
            raise FormatError(f"{self._database.name}: {size} bytes are no whole pages of {page_size}")
        journal = JournalWriter(page_size=page_size, page_n=page_n, nonce=secrets.randbits(32))
        written: list[bytes | memoryview] = [journal.header(RECORD_N_UNKNOWN)]
        offset = 0
        batch_max = min(RUN_BUFFERS_MAX - 1, max(RUN_BYTES_MAX // page_size, 1))
        lock = lock_pgno(page_size)
        cut_off: Iterator[tuple[int, bytes | memoryview | None]] = (
            (pgno, None) for pgno in range(commit + 1, page_n + 1) if pgno != lock
        )
        changes = chain(pages, cut_off)
        enters_wal = False
        end_pgno = page_n
        while batch := list(islice(changes, batch_max)):
            for pgno, _ in batch:
                if pgno <= page_n:
                    written.append(journal.record(pgno, os.pread(fd, page_size, (pgno - 1) * page_size)))
            if written:
                write_fully(journal_fd, written, offset)
                offset += sum(map(len, written))
                written = []
            self._hook("journal-written")
            self._before_pages()
            self._take_exclusive()
            new = [(pgno, data) for pgno, data in batch if data is not None]
            enters_wal = enters_wal or bool(new and new[0][0] == 1 and is_wal_mode(new[0][1]))
            self._database.write_pages(new, page_size)
            end_pgno = max(end_pgno, new[-1][0] if new else 0)
            self._hook("pages-written")
        if end_pgno != commit:
            self._take_exclusive()
            self._database.truncate(commit * page_size)
        if enters_wal:
            # Nobody can read now, and the WAL must be there when somebody can: applications may not create it.
            os.close(os.open(self._database.wal_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        self._hook("before-unlink")

    def roll_back_hot_journal(self) -> None:
        """Plays back the journal, if it belongs to a transaction that did not end, and removes it.

        Raises:
            OSError: the mount refused something; the journal is still there.
        """
        path = self._database.journal_path
        journal_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if is_active(os.pread(journal_fd, JOURNAL_HEADER_SIZE, 0)):
                self._play_back(journal_fd)
            os.unlink(path)
        finally:
            os.close(journal_fd)

    def _play_back(self, journal_fd: int) -> None:
        size = os.fstat(journal_fd).st_size

        def read_at(offset: int, length: int) -> bytes:
            return os.pread(journal_fd, length, offset)

        super_journal = super_journal_name(read_at, size)
        if super_journal is not None and not self._exists_in_mount(super_journal):
            return  # the transaction over several databases was committed
        reader = JournalReader(read_at, size)
        if reader.header is None:
            return
        page_size = reader.header.page_size
        self._database.open()
        for record in reader.records():
            self._database.write_pages([(record.pgno, record.page)], page_size)
        self._database.truncate(reader.header.page_n * page_size)

    def _exists_in_mount(self, super_journal: bytes) -> bool:
        # The name is the path that the application used, which may be another than ours: only its last part counts.
        directory = os.path.dirname(self._database.path)
        return os.path.exists(os.path.join(directory, os.path.basename(os.fsdecode(super_journal))))

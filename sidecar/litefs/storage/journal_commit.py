"""Commits of the rollback-journal modes: DELETE, TRUNCATE, PERSIST.

Strategy: while a journal is active, pages written to the database lie in an overlay, and the journal in
memory. SQLite syncs the database when all pages of a commit are written: there the image is made and
synced (*prepare*). It then removes, truncates or zeroes the journal: there the image becomes the
committed state (*commit*), without waiting. Without syncs (`synchronous=OFF`) both happen at the end, which
waits for the disk only where every commit is synced (`StoreSettings.sync_every_commit`).

States of a journal, and what may be trusted:
    absent, cold      no transaction: the overlay is clean
    active            the overlay holds pages of an unfinished transaction, or of one being rolled back
    prepared          the image of exactly this overlay generation is in the log, durable
    decided           a super-journal's unlink committed it; the journal's end changes nothing

Rules:
    1. A transaction that ends without net change always succeeds, whoever ends it.
    2. A write after a prepare makes the prepared image worthless; it is voided before anything is answered.
    3. Nothing is dropped by us: the kernel has the pages cached. SQLite rolls back, we compare.
    4. A journal whose header is zeroed becomes empty: that readers learn from its attributes, which the kernel has. Of
       a longer one they would read the header each time: two requests, four as root (decision 018).
"""

from litefs.errors import CommitRefusedError, NotPrimaryError, UncapturedWriteError
from litefs.formats.checksum import page_checksum
from litefs.formats.journal import JOURNAL_HEADER_SIZE, is_active, super_journal_name
from litefs.formats.sqlite_header import PAGE_SIZES, page_n_of, page_size_of
from litefs.storage.database import Database
from litefs.storage.free_space import ASK_PAGES
from litefs.storage.overlay import UNLIMITED, Overlay
from litefs.storage.replacement import flip_in_place, give_up_plan, plan_from
from litefs.storage.scratch import ScratchFile
from litefs.storage.steps import Steps
from litefs.storage.transaction import Change, Prepared


class RollbackJournal:
    """The journal file of one database and the transaction it stands for."""

    def __init__(self, database: Database) -> None:
        """A database has one for life; `file` is None while the name does not exist.

        `is_active`: a transaction is open or waits to be rolled back; writes to the database belong to it.
        """
        self.database = database
        self.is_active = False
        self.file: ScratchFile | None = None
        self.overlay: Overlay | None = None
        self.synced = False
        self._prepared: Prepared | None = None
        self._prepared_generation = -1
        self._decided = False

    # ---- the journal file ----

    def create(self) -> None:
        """Makes the file, empty. Whether this node may begin transactions was asked before."""
        self.file = ScratchFile(self.database.disk, self.database.directory)
        self.is_active = False

    def write(self, offset: int, data: bytes) -> Steps[None] | None:
        """Writes into the journal. Zeroing the header of an active one is a commit (PERSIST, EXCLUSIVE).

        Returns:
            None if all is done; the steps of the commit otherwise.

        Raises:
            CommitRefusedError, OSError: the journal is as it was; SQLite rolls back.
        """
        if offset == 0:
            if len(data) >= JOURNAL_HEADER_SIZE and not is_active(data) and self.is_active:
                return self._finish_and_write(data)
            if not self.is_active and any(data):  # zeros end a transaction that wrote nothing
                self.database.check_space(0)
            self._file().write(0, data)
            self.is_active = is_active(self._file().read(0, JOURNAL_HEADER_SIZE))
        else:
            self._file().write(offset, data)
        return None

    def _finish_and_write(self, data: bytes) -> Steps[None]:
        yield from self._finish()
        if any(data):
            self._file().write(0, data)
        else:
            self._file().truncate(0)  # rule 4
        self.is_active = False

    def truncate(self, size: int) -> Steps[None]:
        """Sets the size of the journal; cutting off the header of an active one is a commit (TRUNCATE)."""
        file = self._file()
        if size < JOURNAL_HEADER_SIZE and self.is_active:
            yield from self._finish()
        file.truncate(size)
        self.is_active = is_active(file.read(0, JOURNAL_HEADER_SIZE))

    def unlink(self) -> Steps[None]:
        """Removes the journal: the commit of DELETE mode, and the end of every rollback."""
        yield from self._finish()
        self.file = None
        self.is_active = False

    def abandon(self) -> Steps[None]:
        """Removes the journal of a database that is about to be replaced as a whole: nothing of it is committed."""
        yield from self.take_back()
        self.discard_pages()
        database = self.database
        database.size = max(database.base.committed_size(), database.page_n * database.page_size)
        self.file = None
        self.is_active = self.synced = self._decided = False

    def sync(self) -> None:
        """The application wants this transaction durable. The journal itself need not be: it is scratch."""
        self.synced = True

    def _file(self) -> ScratchFile:
        assert self.file is not None, "the journal was removed"
        return self.file

    # ---- the pages ----

    def write_page(self, offset: int, data: bytes) -> None:
        """Writes into the database under an active journal. Any node may: a rollback does just this.

        Raises:
            OSError: the spill file is full; nothing changed.
            UncapturedWriteError: the journal does not tell a page size.
        """
        overlay = self._overlay()
        page_size = overlay.page_size
        if len(data) == page_size and offset % page_size == 0:
            self._put(overlay, offset // page_size + 1, data)
        else:
            self._write_unaligned(overlay, offset, data)
        end = offset + len(data)
        if end > self.database.size:
            self.database.size = end

    def truncate_database(self, size: int) -> None:
        """Sets the size of the database within the transaction."""
        overlay = self._overlay()
        if size % overlay.page_size and size < self.database.size:
            page = self.read((size // overlay.page_size) * overlay.page_size, size % overlay.page_size)
            overlay.truncate(size)
            overlay.put(size // overlay.page_size + 1, page + bytes(overlay.page_size - len(page)))
        else:
            overlay.truncate(size)
        self.database.size = size

    def read(self, offset: int, size: int) -> bytes:
        """Reads the database as the transaction has it."""
        overlay = self.overlay
        if overlay is None or overlay.is_clean:
            return self.database.base.read(offset, size)
        page_size = overlay.page_size
        end = min(offset + size, self.database.size)
        parts: list[bytes] = []
        while offset < end:
            index, skip = divmod(offset, page_size)
            step = min(page_size - skip, end - offset)
            parts.append(self._page(overlay, index + 1)[skip : skip + step])
            offset += step
        return b"".join(parts)

    def _overlay(self) -> Overlay:
        overlay = self.overlay
        if overlay is None:
            page_size = self.database.page_size
            if not self.database.page_n:
                page_size = self._journal_page_size()
                if page_size not in PAGE_SIZES:
                    raise UncapturedWriteError(f"{self.database.name}: the journal tells no page size")
                self.database.learn_page_size(page_size)
            overlay = self.overlay = self.database.new_overlay(page_size)
        return overlay

    def _journal_page_size(self) -> int:
        """The page size in the journal's header: all that is known of a database before its first commit."""
        return int.from_bytes(self._file().read(24, 4), "big")

    def _page(self, overlay: Overlay, pgno: int) -> bytes:
        page = overlay.get(pgno)
        if page is not None:
            return page
        page_size = overlay.page_size
        start = (pgno - 1) * page_size
        limit = overlay.base_limit
        if start >= limit:
            return bytes(page_size)
        page = self.database.base.read(start, min(page_size, limit - start))
        return page if len(page) == page_size else page + bytes(page_size - len(page))

    def _put(self, overlay: Overlay, pgno: int, page: bytes) -> None:
        try:
            if pgno not in overlay.pages and len(overlay.pages) % ASK_PAGES == 0:
                self.database.check_space(len(overlay.pages))
            overlay.put(pgno, page)
        except OSError:
            # A rollback writes pages that were never changed, too: it must not need the space that ran out.
            if pgno in overlay.pages or self._page(overlay, pgno) != page:
                raise

    def _write_unaligned(self, overlay: Overlay, offset: int, data: bytes) -> None:
        page_size = overlay.page_size
        done = 0
        while done < len(data):
            index, skip = divmod(offset + done, page_size)
            step = min(page_size - skip, len(data) - done)
            if step == page_size:
                overlay.put(index + 1, data[done : done + step])
            else:
                page = bytearray(self._page(overlay, index + 1))
                page[skip : skip + step] = data[done : done + step]
                overlay.put(index + 1, bytes(page))
            done += step

    # ---- prepare and commit ----

    def prepare(self, *, durable: bool, group: int = 0) -> Steps[None]:
        """Puts the image of the pages as they are now into the log, and makes it durable.

        Called from the database's fsync: SQLite has written all pages of the commit. What is no commit
        (a spill, a rollback) does no harm: it is voided or found to change nothing.

        Crash: image synced, journal not yet removed: recovery commits it. Nobody was told otherwise.

        Raises:
            CommitRefusedError, OSError: nothing of this is in the log; SQLite rolls back.
            DiskLostError: the process must stop.
        """
        yield from self._discard_stale_preparation()
        overlay = self.overlay
        if self._prepared is not None or overlay is None or overlay.is_clean:
            return
        generation = overlay.generation
        if self._page_size(overlay) != overlay.page_size:
            prepared = yield from self._plan_page_size(overlay, group)
        else:
            prepared = yield from self.database.prepare(self._change(overlay), group)
        if durable:
            yield from self.database.make_durable(prepared)
        self._prepared, self._prepared_generation = prepared, generation

    def _plan_page_size(self, overlay: Overlay, group: int) -> Steps[Prepared]:
        """Prepares a whole new state: no image can carry pages of another size than those it follows."""
        database, page_size = self.database, self._page_size(overlay)
        # Page 1 says how much of the file is the new state: SQLite cuts the rest off after the commit.
        size = page_n_of(self._page(overlay, 1)) * page_size or database.size
        if group or page_size not in PAGE_SIZES or size % page_size or not 0 < size <= database.size:
            raise CommitRefusedError(
                f"{database.name}: {size} of {database.size} bytes, pages of {overlay.page_size} become {page_size}"
            )
        if not database.gate.is_open:
            raise NotPrimaryError(f"{database.name}: this node is not the primary")
        planned = yield from plan_from(database, page_size, size, self.read)
        return Prepared(
            txid=planned.state.base_txid,
            post_apply=planned.state.checksum,
            commit=planned.state.page_n,
            timestamp_ms=planned.state.timestamp_ms,
            sums=[],
            record=None,
            planned=planned,
        )

    def prepare_in_sync(self) -> Steps[None]:
        """The database's fsync upcall under an active journal."""
        if self._decided or not self.is_active or self.super_journal():
            return
        self.synced = True
        yield from self.prepare(durable=True)

    def super_journal(self) -> bytes:
        """Returns the name of the super-journal that decides about this transaction, or b""."""
        file = self._file()
        return super_journal_name(file.read, file.size) or b""

    def decide(self) -> None:
        """The super-journal is gone: what was prepared is committed, whatever becomes of this journal."""
        self._flip()
        self._decided = True

    def take_back(self) -> Steps[None]:
        """What was prepared will not be committed: voids it.

        Raises:
            DiskLostError: the process must stop.
        """
        self._prepared_generation = -1
        yield from self._discard_stale_preparation()

    @property
    def prepared(self) -> Prepared | None:
        """What `prepare` left, if it still fits the pages."""
        if self.overlay is not None and self._prepared_generation == self.overlay.generation:
            return self._prepared
        return None

    def _finish(self) -> Steps[None]:
        """Ends the transaction: commit if there is a net change, nothing otherwise."""
        overlay = self.overlay
        if overlay is not None and not overlay.is_clean and not self._decided:
            if self.prepared is None:
                yield from self.prepare(durable=self.synced)
            elif not self.database.may_accept(self.prepared):
                yield from self.take_back()
                raise NotPrimaryError(f"{self.database.name}: this node ceased to be the primary")
            if self.prepared is not None and self.prepared.planned is not None:
                try:
                    yield from flip_in_place(self.database, self.prepared.planned)
                except CommitRefusedError:
                    yield from self.take_back()
                    raise
                self.discard_pages()
            # No step from here to the end: the position moves in one piece with the answer.
            self._flip()
        else:
            yield from self._discard_stale_preparation()
        self.synced = self._decided = False

    def discard_pages(self) -> None:
        """Forgets the overlay: its pages are in the base now, or the database goes. Nothing prepared is in the log."""
        self._prepared, self._prepared_generation = None, -1
        if self.overlay is not None:
            self.overlay.close()
            self.overlay = None

    def _flip(self) -> None:
        prepared, overlay = self._prepared, self.overlay
        self._prepared, self._prepared_generation = None, -1
        if overlay is None:
            return
        self.overlay = None
        database = self.database
        if prepared is None or prepared.record is None:
            overlay.close()
            database.size = max(database.base.committed_size(), database.page_n * database.page_size)
            return
        database.stale.clear()
        database.accept(prepared)
        database.lay_down(overlay, prepared.txid)
        database.size = database.page_n * database.page_size

    def _discard_stale_preparation(self) -> Steps[None]:
        prepared = self._prepared
        if prepared is None:
            return
        overlay = self.overlay
        if overlay is None or overlay.generation != self._prepared_generation:
            self._prepared, self._prepared_generation = None, -1
            if prepared.planned is not None:
                yield from give_up_plan(self.database, prepared.planned)
            yield from self.database.void(prepared)

    def _page_size(self, overlay: Overlay) -> int:
        """Returns the page size after the transaction, as page 1 states it: VACUUM may have changed it."""
        return page_size_of(self._page(overlay, 1)) if self.database.size else overlay.page_size

    def _change(self, overlay: Overlay) -> Change:
        database = self.database
        page_size = overlay.page_size
        # Page 1 may count fewer than the file has, which SQLite cuts off after the commit; never more, if it is right.
        file_page_n, first = database.size // page_size, self._page(overlay, 1)
        commit = min(page_n_of(first) or file_page_n, file_page_n)
        if commit < file_page_n == database.page_n and page_checksum(1, first) == database.sums[0]:
            commit = file_page_n  # a file that was copied in may have such pages from the start (rule 1)
        pgnos = sorted(overlay.pages)
        if overlay.base_limit != UNLIMITED:
            cut = range(overlay.base_limit // page_size + 1, min(commit, database.page_n) + 1)
            pgnos = sorted({*pgnos, *cut})
        if database.stale:
            # SQLite lost the WAL that held the newest content of these pages; it sees the base from now on.
            pgnos = sorted({*pgnos, *database.stale})
        return Change(pgnos=pgnos, read=lambda pgno: self._page(overlay, pgno), commit=commit)

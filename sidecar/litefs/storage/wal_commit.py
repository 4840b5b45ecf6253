"""Commits of WAL mode, taken from the frames as SQLite writes them.

Strategy: SQLite appends a frame header (24 bytes), then the page, the page possibly in several writes.
A frame whose header carries a commit size ends a transaction: when its page is complete, the frames
since the last commit are read back, the last one of each page wins, and the image goes into the log in
that very write. The sync that may follow only makes it durable; where every commit is synced
(`StoreSettings.sync_every_commit`), the write waits for that. Locks and checksums of frames are not
looked at: SQLite 3.40 can write frames with wrong checksums that count all the same.

Terms, as offsets into the WAL:
    committed_end   behind the last frame of the last committed transaction
    tail            the frames of the pending transaction are complete up to here, without a hole

Rules:
    1. A write of a frame header at or behind `committed_end` starts that frame anew: `tail` falls back to it
       (a savepoint was rolled back, a transaction abandoned, or simply the next frame).
    2. A write behind `committed_end` that does not begin at a header rewrites a pending page in place.
    3. A write before `committed_end` with the bytes that are there, or with a header that differs in salts and
       checksum only, means nothing. Any other is a rewind: SQLite recovered the WAL short of frames we
       committed and goes on from an older state; the next image carries every page as SQLite now sees it.
    4. A refused commit leaves `tail` where it was, so that SQLite's second attempt is judged again, and the bytes
       that would have ended it inverted: a recovery of the wal-index must not find it.
    5. Database writes are checkpoints; `database.stale` tells which pages the base does not show yet.
    6. A WAL without a valid header is bytes that a file copy or a crash left: SQLite ignores it, and so do we. With
       another page size SQLite finds the database malformed; a commit there could not be taken, so it is refused.
"""

import struct
from array import array

from litefs.errors import CommitRefusedError, FormatError
from litefs.formats.checksum import page_checksum
from litefs.formats.wal import FRAME_HEADER_SIZE, WAL_HEADER_SIZE, WalHeader
from litefs.storage.database import Database
from litefs.storage.free_space import ASK_PAGES
from litefs.storage.scratch import ScratchFile
from litefs.storage.steps import Steps
from litefs.storage.transaction import SMALL_PAGES_MAX, Change, Prepared, image_bytes_max

_MEANING = struct.Struct(">IIII")  # pgno, commit and the two salts decide what a frame means; its checksums do not
_PGNO_AND_COMMIT_SIZE = 8
_NO_SALTS = (0, 0)
_WAL_SALTS = struct.Struct(">II")


class WalCapture:
    """The WAL file of one database, and the transactions in it."""

    def __init__(self, database: Database) -> None:
        """A database has one for life; `file` is None while the name does not exist."""
        self.database = database
        self.file: ScratchFile | None = None
        self.committed_end = WAL_HEADER_SIZE
        self.tail = WAL_HEADER_SIZE
        self._frame_size = 0
        self._is_of_other_size = False
        self._salts = (0, 0)
        self._pgnos = array("I")  # of the committed frames, in order
        self._pending: list[int] = []  # pgno of each pending frame whose header is there
        self._ending = -1  # offset of the pending frame that ends the transaction
        self._ending_commit = 0
        self._carry: set[int] = set()  # pages that SQLite sees differently than we committed them (rule 3)

    def create(self) -> None:
        """Makes the file, empty."""
        self.file = ScratchFile(self.database.disk, self.database.directory)
        self._forget_frames()

    # ---- the file ----

    @property
    def holds_frames(self) -> bool:
        """There are committed frames in the WAL."""
        return self.committed_end > WAL_HEADER_SIZE

    def read(self, offset: int, size: int) -> bytes:
        """Reads the WAL."""
        return self._file().read(offset, size)

    def write(self, offset: int, data: bytes) -> Steps[None] | None:
        """Writes into the WAL; completes a transaction if these bytes do.

        Returns:
            None if all is done, which is the rule; the steps that are left of a large commit otherwise.

        Raises:
            CommitRefusedError: the transaction that would end here may not commit.
            OSError: the log or the spill file cannot take it.
        """
        size = self._frame_size
        if size and offset >= self.committed_end:
            skip = (offset - WAL_HEADER_SIZE) % size
            if skip + len(data) <= size:
                return self._write_in_frame(offset, skip, data)
        return self._write_pieces(offset, data)

    def _write_pieces(self, offset: int, data: bytes) -> Steps[None]:
        """The same for what touches the header, committed frames, or more than one frame."""
        if offset < WAL_HEADER_SIZE:
            part = data[: WAL_HEADER_SIZE - offset]
            self._write_header(offset, part)
            offset, data = offset + len(part), data[len(part) :]
        if not self._frame_size:
            self._write_foreign(offset, data)
            return
        size = self._frame_size
        while data:
            skip = (offset - WAL_HEADER_SIZE) % size
            piece = data[: size - skip]
            write = self._write_committed if offset < self.committed_end else self._write_in_frame
            steps = write(offset, skip, piece)
            if steps is not None:
                yield from steps
            offset, data = offset + len(piece), data[len(piece) :]

    def _write_foreign(self, offset: int, data: bytes) -> None:
        """Rule 6."""
        if self._is_of_other_size and len(data) == FRAME_HEADER_SIZE and _MEANING.unpack_from(data)[1]:
            raise CommitRefusedError(f"{self.database.name}: a commit in a WAL of another page size")
        self._file().write(offset, data)

    def truncate(self, size: int) -> None:
        """Sets the size; cutting the WAL to nothing ends its generation."""
        if size < self.committed_end:
            self._end_generation()
        self._file().truncate(size)

    def unlink(self) -> None:
        """Removes the WAL: SQLite has checkpointed it all, or the database is new."""
        self._end_generation()
        self.file = None

    def _file(self) -> ScratchFile:
        assert self.file is not None, "the WAL was removed"
        return self.file

    # ---- generations ----

    def _write_header(self, offset: int, part: bytes) -> None:
        """A header starts a generation: SQLite has checkpointed all frames of the one before."""
        file = self._file()
        before = file.read(0, WAL_HEADER_SIZE)
        file.write(offset, part)
        header = file.read(0, WAL_HEADER_SIZE)
        if header == before and len(header) == WAL_HEADER_SIZE:
            return
        self._end_generation()
        if len(header) < WAL_HEADER_SIZE:
            return
        try:
            page_size = WalHeader.decode(header).page_size
        except FormatError:
            return  # rule 6
        if page_size != self.database.page_size:
            self._is_of_other_size = True
            return
        self._frame_size = FRAME_HEADER_SIZE + page_size
        self._salts = _WAL_SALTS.unpack_from(header, 16)

    def _end_generation(self) -> None:
        """What SQLite did not bring into the database file by now, it has forgotten (rule 3)."""
        self._carry |= self.database.stale
        self._forget_frames()

    def _forget_frames(self) -> None:
        self.committed_end = self.tail = WAL_HEADER_SIZE
        self._frame_size = 0
        self._is_of_other_size = False
        self._pgnos = array("I")
        self._pending.clear()
        self._ending = -1

    # ---- frames ----

    def _write_in_frame(self, offset: int, skip: int, data: bytes) -> Steps[None] | None:
        """Rules 1 and 2 for a write within one pending frame, `skip` bytes behind its start."""
        start = offset - skip
        if skip < _MEANING.size and not (index := (start - self.committed_end) // self._frame_size) % ASK_PAGES:
            self.database.check_space(index)
        self._file().write(offset, data)
        end = offset + len(data)
        if skip < _MEANING.size:
            self._begin_frame(start, end)
        elif offset > self.tail:
            return None  # behind a hole: nothing SQLite does
        if end == start + self._frame_size and self._ending == start:
            try:
                steps = self._commit(start)
            except (CommitRefusedError, OSError):
                self._spoil(offset, data)
                raise
            if steps is not None:
                return self._finish_or_spoil(steps, offset, data)
        if end > self.tail:
            self.tail = end
        return None

    def _finish_or_spoil(self, steps: Steps[None], offset: int, data: bytes) -> Steps[None]:
        try:
            yield from steps
        except (CommitRefusedError, OSError):
            self._spoil(offset, data)
            raise

    def _spoil(self, offset: int, data: bytes) -> None:
        """Makes the frame of a refused commit one whose checksum does not hold.

        Else whoever recovers the wal-index next (a connection that is the first again, or the applier of a node that
        became a replica) would find a transaction that was refused, and show it. The kernel forgets the pages of a
        write that failed, so it reads these bytes. SQLite's second attempt writes the right ones again (rule 4).
        """
        self._file().write(offset, bytes(byte ^ 0xFF for byte in data))

    def _begin_frame(self, start: int, end: int) -> None:
        """A frame header, or a part of one, was written: the frame begins anew."""
        index = (start - self.committed_end) // self._frame_size
        del self._pending[index:]
        self.tail = end
        self._ending = -1
        if end - start >= _MEANING.size:
            pgno, commit, *salts = _MEANING.unpack(self._file().read(start, _MEANING.size))
            # A frame with other salts is left from a generation before, or no frame at all: there SQLite stops reading,
            # so neither it nor what follows it can be of a transaction. Zeros SQLite writes itself, once it has
            # rewritten a page in place (rule 2); it writes those headers again behind the commit (rule 3).
            if len(self._pending) == index and tuple(salts) in (self._salts, _NO_SALTS):
                self._pending.append(pgno)
                if commit:
                    self._ending = start
                    self._ending_commit = commit

    def _write_committed(self, offset: int, skip: int, data: bytes) -> Steps[None] | None:
        """Rule 3, for a write within one committed frame, `skip` bytes behind its start."""
        before = self._file().read(offset, len(data))
        if before == data:
            return None
        meaning = max(0, _PGNO_AND_COMMIT_SIZE - skip)
        if skip + len(data) <= FRAME_HEADER_SIZE and before[:meaning] == data[:meaning]:
            self._file().write(offset, data)
            return None
        start = offset - skip
        self._rewind((start - WAL_HEADER_SIZE) // self._frame_size)
        if skip >= _MEANING.size:
            self._begin_frame(start, offset)  # what comes before in this frame was written with the same bytes
        return self._write_in_frame(offset, skip, data)

    def _rewind(self, index: int) -> None:
        """SQLite writes over committed frame `index`: the state it sees ends before it."""
        self._carry.update(self._pgnos[index:])
        del self._pgnos[index:]
        self._pending.clear()
        self._ending = -1
        self.committed_end = WAL_HEADER_SIZE + index * self._frame_size

    # ---- commit ----

    def _commit(self, last: int) -> Steps[None] | None:
        """Ends the pending transaction with the frame at offset `last`.

        Crash: the image is in the log, not synced: with `synchronous=NORMAL` that is what was asked for;
        with FULL the fsync that SQLite sends next makes it durable before the application hears of it. Where every
        commit is synced it is durable before the position moves, so before a replica can have it.
        """
        size, offset = self._frame_size, self.committed_end
        if size != FRAME_HEADER_SIZE + self.database.page_size:  # the database was made anew, the WAL was left: rule 6
            raise CommitRefusedError(f"{self.database.name}: a commit in a WAL of another page size")
        pending = self._pending[: (last - offset) // size + 1]
        places: dict[int, int] = {}
        for pgno in pending:
            places[pgno] = offset
            offset += size
        change = Change(
            pgnos=sorted(places.keys() | self._carry if self._carry else places),
            read=lambda pgno: self._page(places, pgno),
            commit=self._ending_commit,
            wal=(self.committed_end, offset - self.committed_end, *self._salts),
        )
        page_n = len(change.pgnos)
        image_page_n = page_n + max(0, change.commit - self.database.page_n)
        room = image_bytes_max(image_page_n, self.database.page_size)
        waits = page_n > SMALL_PAGES_MAX or self.database.settings.sync_every_commit
        if waits or not self.database.log.has_room(room):
            return self._commit_in_steps(pending, places, change)
        self._committed(pending, places, self.database.prepare_small(change))
        return None

    def _commit_in_steps(self, pending: list[int], places: dict[int, int], change: Change) -> Steps[None]:
        prepared = yield from self.database.prepare(change)
        self._committed(pending, places, prepared)
        self.tail = max(self.tail, self.committed_end)

    def _committed(self, pending: list[int], places: dict[int, int], prepared: Prepared) -> None:
        """Position and WAL move in one piece: no step in here."""
        database = self.database
        self._pgnos.extend(pending)
        self._pending.clear()
        self._ending = -1
        self.committed_end += len(pending) * self._frame_size
        if prepared.record is not None:
            if self._carry:
                self._settle_carry(places)
            database.stale.update(pgno for pgno in places if pgno <= prepared.commit)
            if database.expected:
                database.withhold_position()
            database.accept(prepared)

    def _page(self, places: dict[int, int], pgno: int) -> bytes:
        """Returns a page as SQLite sees it once the pending transaction is committed."""
        page_size = self.database.page_size
        offset = places.get(pgno)
        if offset is None and (index := self._last_frame(pgno)) >= 0:
            offset = WAL_HEADER_SIZE + index * self._frame_size
        if offset is not None:
            return self._file().read(offset + FRAME_HEADER_SIZE, page_size)
        return self.database.base.page(pgno)

    def _last_frame(self, pgno: int) -> int:
        """Returns the index of the newest committed frame of a page, or -1. Slow: for rewinds and growth only."""
        for index in range(len(self._pgnos) - 1, -1, -1):
            if self._pgnos[index] == pgno:
                return index
        return -1

    def _settle_carry(self, places: dict[int, int]) -> None:
        """After the image with the carried pages: the base shows those that no frame holds."""
        for pgno in self._carry:
            if pgno in places:
                continue
            if self._last_frame(pgno) < 0:
                self.database.stale.discard(pgno)
            else:
                self.database.stale.add(pgno)
        self._carry.clear()

    # ---- checkpoints ----

    def checkpoint_write(self, offset: int, data: bytes) -> None:
        """A write into the database file in WAL mode: readers with older snapshots are to see exactly this.

        Raises:
            OSError: the page is not in the database; SQLite keeps the frame.
        """
        database = self.database
        page_size = database.page_size
        done = 0
        while done < len(data):
            index, skip = divmod(offset + done, page_size)
            step = min(page_size - skip, len(data) - done)
            page = data[done : done + step]
            if step != page_size:
                whole = bytearray(database.base.page(index + 1))
                whole[skip : skip + step] = page
                page = bytes(whole)
            self._checkpoint_page(index + 1, page)
            done += step
        database.size = max(database.size, offset + len(data))

    def _checkpoint_page(self, pgno: int, page: bytes) -> None:
        database, txid = self.database, self.database.txid
        is_newest = pgno > database.page_n or page_checksum(pgno, page) == database.sums[pgno - 1]
        if not is_newest and pgno not in database.stale:
            # SQLite lost frames and goes back behind what the base shows. The log may not hold the page any
            # more, so the base keeps it until the image that says the older one is durable.
            self._carry.add(pgno)
            txid += 1
        database.base.put(pgno, page, txid, database.log.durable_txid)
        if pgno == 1:
            database.note_header()
        if not is_newest:
            database.stale.add(pgno)
        elif pgno in database.stale:
            database.stale.discard(pgno)
            if not database.stale:
                database.note_complete()

    def truncate_database(self, size: int) -> None:
        """Sets the size of the database file at the end of a checkpoint."""
        database, txid = self.database, self.database.txid
        page_n = -(-size // database.page_size)
        if page_n < database.page_n:
            self._carry.update(range(page_n + 1, database.page_n + 1))  # as `_checkpoint_page`
            database.stale.update(range(page_n + 1, database.page_n + 1))
            txid += 1
        database.base.resize(size, txid, database.log.durable_txid)
        database.size = size

"""Writes transactions into a SQLite WAL from outside SQLite, so that readers are never blocked by an apply.

Strategy: the node of a replica holds WAL_WRITE for as long as it is a replica, appends the pages of a
replicated transaction as frames, enters them in the wal-index and publishes a new header. It never reads pages, so
it needs no READ lock, and nobody can restart or recover the WAL while it holds WRITE.

Guarantees (numbers as in the tests):
  I1  a reader that starts after `apply` returned sees that transaction.
  I5  a death anywhere leaves transaction N or N+1; applying the same pages again gives identical bytes.
  I7  `-wal` and `-shm` keep their inodes while the writer lives: it holds SHARED, so no connection is the last.
  P2  at a restart the checkpoint information is reset before the header: the other order, and a death in between,
      leaves nBackfill > mxFrame, and later commits are lost silently.
  P3  CKPT is held while restarting: a delayed checkpointer of SQLite < 3.51.3 would copy overwritten frames.
  P8  page 1 in a frame always says WAL: readers must not find a rollback-mode page behind a WAL.

Source: SQLite 3.40, wal.c (sqlite3WalFrames, walRestartLog, walRestartHdr, walIndexRecover), os_unix.c
(unixOpenSharedMemory, unixLockSharedMemory).
"""

import fcntl
import logging
import os
import secrets
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

from litefs.errors import FormatError, LockHeldError
from litefs.formats.wal import WalHeader, frame_offset, wal_checksum
from litefs.formats.wal_index import READ_MARK_N, READ_MARK_UNUSED, WalIndexHeader
from litefs.node import locks, wal_scan
from litefs.node.mounted_database import FILE_MODE, RUN_BYTES_MAX, MountedDatabase, Page, write_fully
from litefs.node.wal_checkpoint import Checkpoint
from litefs.node.wal_index_map import WalIndexMap

OPEN_TIMEOUT_S = 5.0
"""An application may hold WRITE, or recover, for this long before opening is given up for this time."""
WAL_BYTES_KEPT = 16 << 20
"""A WAL that a large transaction made longer than this is cut when it starts over."""
FRAMES_PER_WRITE = 480
"""Two buffers per frame, below IOV_MAX (1024)."""

_FRAME_START = struct.Struct(">II")
_CHECKSUM = struct.Struct(">II")
_WAL_MODE = b"\x02\x02"
_NO_SALTS = bytes(8)
_U32_MAX = 0xFFFFFFFF
_NATIVE_BIG_ENDIAN = sys.byteorder == "big"
_EMPTY_HEADER = WalIndexHeader(
    change=0, big_endian=_NATIVE_BIG_ENDIAN, page_size=0, mx_frame=0, page_n=0, frame_checksum=(0, 0), salts=_NO_SALTS
)

_log = logging.getLogger("litefs.node")


def _salts(wal: WalHeader) -> bytes:
    return wal.salt1.to_bytes(4, "big") + wal.salt2.to_bytes(4, "big")


class WalWriter:
    """The one writer of a database's WAL. Not thread-safe: it belongs to the applier's thread."""

    def __init__(self, database: MountedDatabase, hook: Callable[[str], None] = lambda _point: None) -> None:
        """Args: database: stays the caller's; hook: called at named points, so that a test can die there."""
        self._database = database
        self._hook = hook
        self._wal_fd = -1
        self._shm_fd = -1
        self._index: WalIndexMap | None = None
        self._take_header(_EMPTY_HEADER)
        self._published = b""
        self._checkpoint_seq = 0

    @property
    def mx_frame(self) -> int:
        """Frames in the WAL that readers see."""
        return self._mx_frame

    @property
    def backfilled_n(self) -> int:
        """How many of them are in the database file."""
        return self._map().backfilled_n

    # ---- opening and closing ----

    def open(self) -> None:
        """Becomes the writer; the WAL, if any, is taken over with everything that is committed in it.

        Raises:
            LockHeldError: an application writes or recovers right now. Nothing is held.
        """
        try:
            self._database.open()
            self._database.lock_shared(OPEN_TIMEOUT_S)
            self._shm_fd = self._open_shm()
            # Not before: with SHARED and DMS held, nobody unlinks or replaces the WAL any more.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._wal_fd = os.open(self._database.wal_path, flags, FILE_MODE)
            locks.write(self._shm_fd, locks.WRITE, OPEN_TIMEOUT_S)
            self._index = WalIndexMap(self._shm_fd)
            self._load(self._index)
        except BaseException:
            self.close()
            raise

    def _open_shm(self) -> int:
        """Opens the `-shm` and joins its users.

        Raises:
            LockHeldError: somebody else is emptying it, for as long as `OPEN_TIMEOUT_S`.
        """
        fd = os.open(self._database.shm_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            deadline = time.monotonic() + OPEN_TIMEOUT_S
            while not self._join_shm(fd):
                if time.monotonic() > deadline:
                    self._busy(f"{locks.DMS} is held by {locks.holder(fd, locks.DMS, exclusive=False)}")
                time.sleep(locks.BACKOFF_FIRST_S)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @staticmethod
    def _join_shm(fd: int) -> bool:
        """Takes DMS shared; the first of all users empties the file, as SQLite does."""
        if locks.try_write(fd, locks.DMS):
            os.ftruncate(fd, 3)  # nobody has it mapped; an opener that comes now finds no valid header
            return locks.try_read(fd, locks.DMS)
        return locks.held_kind(fd, locks.DMS) == fcntl.F_RDLCK and locks.try_read(fd, locks.DMS)

    def _busy(self, reason: str) -> NoReturn:
        raise LockHeldError(f"{self._database.name}: {reason}")

    def close(self) -> None:
        """Lets go of all locks and mappings. WAL and wal-index stay, for readers and for the next writer."""
        self._release()
        if self._database.is_open:
            self._database.unlock()

    def _release(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
        for fd in (self._wal_fd, self._shm_fd):
            if fd >= 0:
                os.close(fd)
        self._wal_fd = self._shm_fd = -1

    def _map(self) -> WalIndexMap:
        assert self._index is not None, "the WAL writer is not open"
        return self._index

    # ---- taking over what is there ----

    def _load(self, index: WalIndexMap) -> None:
        """Takes over the published state, or recovers it, and rolls forward what was committed but not published."""
        pair = index.headers()
        wal = wal_scan.read_header(self._wal_fd)
        header = self._trusted(index, pair, wal)
        if header is None:
            self._recover(index, wal)
            return
        self._published = pair
        self._take_header(header)
        if wal is not None:
            self._roll_forward(index, wal)

    def _trusted(self, index: WalIndexMap, pair: bytes, wal: WalHeader | None) -> WalIndexHeader | None:
        """Returns the published header if it fits the WAL file; None if recovery must decide."""
        half = len(pair) // 2
        if pair[:half] != pair[half:]:
            return None
        try:
            header = WalIndexHeader.decode(pair[:half])
        except FormatError:
            return None
        if index.backfilled_n > header.mx_frame:
            return None
        if header.mx_frame == 0:
            return header
        if wal is None or _salts(wal) != header.salts or wal.page_size != header.page_size:
            return None
        if os.fstat(self._wal_fd).st_size < frame_offset(header.mx_frame + 1, header.page_size):
            return None
        return header

    def _take_header(self, header: WalIndexHeader) -> None:
        self._change = header.change
        self._mx_frame = header.mx_frame
        self._page_n = header.page_n
        self._page_size = header.page_size
        self._big_endian = header.big_endian
        self._salts = header.salts
        self._checksum = header.frame_checksum

    def _take_wal(self, wal: WalHeader) -> None:
        self._page_size = wal.page_size
        self._big_endian = wal.big_endian
        self._salts = _salts(wal)
        self._checkpoint_seq = wal.checkpoint_seq

    def _roll_forward(self, index: WalIndexMap, wal: WalHeader) -> None:
        """Publishes transactions that are complete in the WAL behind the published state.

        A writer died between writing the commit frame and publishing it. The filesystem process has seen the frame:
        for it the transaction is committed, so it must not be overwritten.
        """
        if self._mx_frame == 0 and self._salts not in (_salts(wal), _NO_SALTS):
            # The WAL was started over and its header not yet written: these frames are old.
            self._checkpoint_seq = wal.checkpoint_seq + 1 & _U32_MAX
            return
        self._take_wal(wal)
        checksum = self._checksum if self._mx_frame else None
        found = wal_scan.scan(self._wal_fd, wal, self._mx_frame + 1, checksum)
        if found.pgnos:
            index.append(self._mx_frame + 1, found.pgnos)
            self._publish(index, self._mx_frame + len(found.pgnos), found.page_n, found.checksum)

    def _recover(self, index: WalIndexMap, wal: WalHeader | None) -> None:
        """Rebuilds the wal-index from the WAL, as SQLite does when it finds no valid header.

        Raises:
            LockHeldError: a checkpointer is at work, or another recovery.
        """
        locks.write(self._shm_fd, locks.CKPT_RECOVER, OPEN_TIMEOUT_S)
        try:
            self._take_header(_EMPTY_HEADER)
            found = wal_scan.scan(self._wal_fd, wal) if wal is not None else None
            if wal is not None:
                self._checkpoint_seq = wal.checkpoint_seq + 1 & _U32_MAX
            if wal is not None and found is not None and found.pgnos:
                self._take_wal(wal)
                index.rebuild(found.pgnos)
                mx_frame, page_n, checksum = len(found.pgnos), found.page_n, found.checksum
            else:
                mx_frame, page_n, checksum = 0, 0, (0, 0)
            # Checkpoint information before the header: see P2.
            index.backfilled_n = 0
            index.set_backfill_attempted(mx_frame)
            self._reset_read_marks(index, mx_frame)
            self._publish(index, mx_frame, page_n, checksum)
        finally:
            locks.unlock(self._shm_fd, locks.CKPT_RECOVER)
        if mx_frame:
            _log.info("%s: wal-index rebuilt from %d frames", self._database.name, mx_frame)

    def _reset_read_marks(self, index: WalIndexMap, mx_frame: int) -> None:
        """Gives back the marks that no reader holds; mark 1 stays usable for readers that cannot write it."""
        index.set_read_mark(0, 0)
        for mark in range(1, READ_MARK_N):
            if locks.try_write(self._shm_fd, locks.READ[mark]):
                index.set_read_mark(mark, mx_frame if mark == 1 else READ_MARK_UNUSED)
                locks.unlock(self._shm_fd, locks.READ[mark])

    # ---- transactions ----

    def apply(self, pages: Iterable[Page], page_size: int, commit: int) -> None:
        """Commits one transaction: when this returns, every new reader sees it.

        Args:
            pages: in ascending order; every page the database grew by is among them (else SQLite
                refuses to checkpoint).
            page_size: in bytes, of every page.
            commit: size of the database in pages afterwards.

        Raises:
            FormatError: a page size other than the database's, or a page 1 that leaves WAL mode.
            OSError: the mount refused a frame; readers still see the old state, and so does the next `apply`.

        Crash: before the last frame is complete, the frames are leftovers that the next writer overwrites. After
        it, the next writer finds the commit behind the published state and publishes it.
        """
        index = self._map()
        if index.headers() != self._published:
            raise FormatError(f"{self._database.name}: somebody else wrote the wal-index")
        if self._mx_frame and index.backfilled_n == self._mx_frame:
            self.restart()
        if self._mx_frame == 0:
            self._begin_wal(page_size)
        elif page_size != self._page_size:
            raise FormatError(f"{self._database.name}: image of page size {page_size}, WAL of {self._page_size}")
        frame_n, checksum = self._write_frames(index, pages, commit)
        if not frame_n:
            return  # nothing changes: SQLite has at least one page in each transaction, a Go primary has none there
        self._hook("index-written")
        self._publish(index, self._mx_frame + frame_n, commit, checksum)
        self._hook("published")

    def _write_frames(self, index: WalIndexMap, pages: Iterable[Page], commit: int) -> tuple[int, tuple[int, int]]:
        """Appends frames and their index entries. Returns how many, and the checksum of the last."""
        frame = first_frame = self._mx_frame + 1
        checksum, salts, big_endian = self._checksum, self._salts, self._big_endian
        buffers: list[bytes | memoryview] = []
        pgnos: list[int] = []
        batch_max = min(FRAMES_PER_WRITE, max(RUN_BYTES_MAX // self._page_size, 1))
        iterator = iter(pages)
        page = next(iterator, None)
        while page is not None:
            pgno, data = page
            page = next(iterator, None)
            if pgno == 1 and data[18:20] != _WAL_MODE:
                raise FormatError(f"{self._database.name}: page 1 leaves WAL mode")
            start = _FRAME_START.pack(pgno, commit if page is None else 0)
            checksum = wal_checksum(start, *checksum, big_endian=big_endian)
            checksum = wal_checksum(data, *checksum, big_endian=big_endian)
            buffers.append(start + salts + _CHECKSUM.pack(*checksum))
            buffers.append(data)
            pgnos.append(pgno)
            if page is None or len(pgnos) == batch_max:
                write_fully(self._wal_fd, buffers, frame_offset(frame, self._page_size))
                self._hook("frames-written")
                index.append(frame, pgnos)
                frame += len(pgnos)
                buffers, pgnos = [], []
        return frame - first_frame, checksum

    def _begin_wal(self, page_size: int) -> None:
        """Writes the header of an empty WAL, with salts no frame behind it carries."""
        if self._salts == _NO_SALTS:
            self._salts = secrets.token_bytes(8)
        self._page_size = page_size
        self._big_endian = _NATIVE_BIG_ENDIAN
        header = WalHeader(
            big_endian=self._big_endian,
            page_size=page_size,
            checkpoint_seq=self._checkpoint_seq,
            salt1=int.from_bytes(self._salts[:4], "big"),
            salt2=int.from_bytes(self._salts[4:], "big"),
        )
        self._checksum = header.checksum
        write_fully(self._wal_fd, [header.encode()], 0)
        self._hook("wal-header-written")

    def _publish(self, index: WalIndexMap, mx_frame: int, page_n: int, checksum: tuple[int, int]) -> None:
        change = self._change + 1 & _U32_MAX
        header = WalIndexHeader(
            change=change,
            big_endian=self._big_endian,
            page_size=self._page_size,
            mx_frame=mx_frame,
            page_n=page_n,
            frame_checksum=checksum,
            salts=self._salts,
        ).encode()
        index.publish(header)
        self._change, self._mx_frame, self._page_n, self._checksum = change, mx_frame, page_n, checksum
        self._published = header + header

    # ---- keeping the WAL short ----

    def restart(self, wait_s: float = 0.0) -> bool:
        """Starts the WAL over if everything in it is in the database file and no reader uses it.

        Args:
            wait_s: how long to wait for readers of the WAL; meanwhile nothing is committed.

        Returns:
            Whether it was started over.

        Crash: with the checkpoint information reset and the old header standing, the WAL is whole and only has to
        be checkpointed again. After the new header, it is empty.
        """
        index = self._map()
        if not self._mx_frame or index.backfilled_n != self._mx_frame or not locks.try_write(self._shm_fd, locks.CKPT):
            return False
        try:
            locks.write(self._shm_fd, locks.READ_WAL, wait_s)
        except LockHeldError:
            locks.unlock(self._shm_fd, locks.CKPT)
            return False
        try:
            self._reset(index)
        finally:
            locks.unlock(self._shm_fd, locks.READ_WAL)
            locks.unlock(self._shm_fd, locks.CKPT)
        return True

    def _reset(self, index: WalIndexMap) -> None:
        used = frame_offset(self._mx_frame + 1, self._page_size)
        index.backfilled_n = 0
        index.set_backfill_attempted(0)
        index.set_read_mark(1, 0)
        for mark in range(2, READ_MARK_N):
            index.set_read_mark(mark, READ_MARK_UNUSED)
        self._hook("marks-reset")
        salt1 = int.from_bytes(self._salts[:4], "big") + 1 & _U32_MAX
        self._salts = salt1.to_bytes(4, "big") + secrets.token_bytes(4)
        self._checkpoint_seq = self._checkpoint_seq + 1 & _U32_MAX
        self._publish(index, 0, self._page_n, self._checksum)
        self._hook("restarted")
        if used > WAL_BYTES_KEPT:
            os.ftruncate(self._wal_fd, 0)

    def checkpoint(self, wait_s: float = 0.0) -> int:
        """Brings frames into the database file, as far as readers allow.

        Args:
            wait_s: how long to wait for readers in all.

        Returns:
            Frames of the WAL that are in the database file afterwards (`mx_frame` if all).
        """
        if self._mx_frame == 0:
            return 0
        checkpoint = Checkpoint(
            database=self._database,
            wal_fd=self._wal_fd,
            shm_fd=self._shm_fd,
            index=self._map(),
            page_size=self._page_size,
            mx_frame=self._mx_frame,
            page_n=self._page_n,
            hook=self._hook,
        )
        return checkpoint.run(wait_s)

    def leave_wal_mode(self, timeout_s: float) -> None:
        """Checkpoints everything and removes WAL and wal-index; EXCLUSIVE is held afterwards, and the writer closed.

        Raises:
            LockHeldError: a connection has the database open. The writer goes on as before.

        Crash: with the WAL gone and the database file complete, the next opener makes an empty WAL.
        """
        self._database.lock_exclusive(timeout_s)
        try:
            if self._mx_frame and self.checkpoint() != self._mx_frame:
                self._busy("readers use the WAL although nobody has the database open")
        except BaseException:
            self._database.downgrade()
            raise
        for path in (self._database.wal_path, self._database.shm_path):
            os.unlink(path)
            self._hook("unlinked")
        self._release()

"""Brings frames of a WAL into the database file, by SQLite's rules, without SQLite.

Strategy: as a PASSIVE checkpoint: CKPT is held; read marks that nobody uses are moved up, those in use bound how far
the checkpoint may go; READ0 is held while pages are written, for its readers look at the database file only.

What differs from SQLite, and why it may: nothing is synced, because WAL and database file of a mount are
scratch to the log of images, which is the truth. The last frame of each page up to the bound is written, not only
of pages whose newest frame is within the bound: so the file shows exactly the state of that frame.

Source: SQLite 3.40, wal.c (walCheckpoint).
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from litefs.errors import LockHeldError
from litefs.formats.wal import FRAME_HEADER_SIZE, frame_offset
from litefs.formats.wal_index import READ_MARK_N, READ_MARK_UNUSED
from litefs.node import locks
from litefs.node.mounted_database import MountedDatabase, Page
from litefs.node.wal_index_map import WalIndexMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint; the caller holds WRITE, so that `mx_frame` cannot move meanwhile.

    Attributes:
        page_size: in bytes.
        mx_frame: frames that readers see.
        page_n: size of the database in pages at `mx_frame`.
        hook: called at named points, so that a test can die there.
    """

    database: MountedDatabase
    wal_fd: int
    shm_fd: int
    index: WalIndexMap
    page_size: int
    mx_frame: int
    page_n: int
    hook: Callable[[str], None]

    def run(self, wait_s: float) -> int:
        """Checkpoints what readers allow.

        Args:
            wait_s: how long to wait for readers in all.

        Returns:
            Frames that are in the database file afterwards.
        """
        done = self.index.backfilled_n
        if done >= self.mx_frame or not locks.try_write(self.shm_fd, locks.CKPT):
            return done
        try:
            deadline = time.monotonic() + wait_s
            safe = self._raise_read_marks(deadline)
            if safe > done:
                return self._backfill(done, safe, deadline)
            return done
        finally:
            locks.unlock(self.shm_fd, locks.CKPT)

    def _raise_read_marks(self, deadline: float) -> int:
        """Moves read marks up to `mx_frame` where no reader holds them. Returns the lowest one that is held."""
        safe = self.mx_frame
        for mark in range(1, READ_MARK_N):
            frame = self.index.read_mark(mark)
            if frame >= safe:
                continue
            if self._lock(locks.READ[mark], deadline):
                self.index.set_read_mark(mark, safe if mark == 1 else READ_MARK_UNUSED)
                locks.unlock(self.shm_fd, locks.READ[mark])
            else:
                safe = frame
                deadline = 0.0  # one reader is enough to wait for
        return safe

    def _backfill(self, done: int, safe: int, deadline: float) -> int:
        """Writes pages of frames `done` + 1 … `safe`.

        Crash: the database file has some pages of newer frames; every reader that could notice finds these pages in
        the WAL, and nBackfill does not count them yet. The next checkpoint writes them again.
        """
        if not self._lock(locks.READ[0], deadline):
            return done
        try:
            self.index.set_backfill_attempted(safe)
            self.database.write_pages(self._pages(done + 1, safe), self.page_size)
            self.hook("pages-checkpointed")
            if safe == self.mx_frame:
                self.database.truncate(self.page_n * self.page_size)
            self.index.backfilled_n = safe
            self.hook("backfilled")
        finally:
            locks.unlock(self.shm_fd, locks.READ[0])
        return safe

    def _pages(self, first_frame: int, last_frame: int) -> Iterator[Page]:
        """Yields the newest content of each page, ascending, without those that the database was cut by."""
        frames = dict(zip(self.index.pgnos(first_frame, last_frame), range(first_frame, last_frame + 1), strict=True))
        for pgno in sorted(frames):
            if pgno <= self.page_n:
                offset = frame_offset(frames[pgno], self.page_size) + FRAME_HEADER_SIZE
                yield pgno, os.pread(self.wal_fd, self.page_size, offset)

    def _lock(self, lock_range: locks.LockRange, deadline: float) -> bool:
        try:
            locks.write(self.shm_fd, lock_range, deadline - time.monotonic())
        except LockHeldError:
            return False
        return True

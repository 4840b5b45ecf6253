"""Applies the images of one database in their order, on a thread of its own.

Strategy: the database's mode decides the way: a real rollback journal, or a WAL writer that keeps WAL_WRITE for
as long as this node is a replica. An application that holds a lock stops this thread and no other: the images
wait in the log meanwhile, the lag shows it, and the holder is named.

Changes of mode arrive as images of page 1:
    rollback → WAL    the journal applier commits it; then the WAL writer opens
    WAL → rollback    everything is checkpointed, WAL and wal-index go under EXCLUSIVE, then the journal applier
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from litefs.errors import FormatError, LinkClosedError, LockHeldError
from litefs.formats.ltx import LtxHeader
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE, is_wal_mode
from litefs.node.journal_applier import JournalApplier
from litefs.node.mounted_database import MountedDatabase, Page
from litefs.node.wal_writer import WalWriter

LOCK_TIMEOUT_S = 5.0
"""Between two log lines that name the application in the way."""

RETRY_S = 0.05
"""Pause after a lock was not to be had in `LOCK_TIMEOUT_S`, or the mount refused a call."""

CHECKPOINT_FRAMES = 1000
"""As SQLite's own automatic checkpoint."""

WAL_FRAMES_LONG = 4000
"""A WAL this long is worth making new readers wait, once in `PATIENT_CHECKPOINT_S`."""

CHECKPOINT_WAIT_S = 0.05
PATIENT_CHECKPOINT_S = 1.0

_log = logging.getLogger("litefs.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that is in the local log, verified.

    Attributes:
        header: its header.
        pages: returns the pages, ascending, from the start each time.
        first_page: the first 100 bytes of page 1 if the image has it, else b"".
    """

    header: LtxHeader
    pages: Callable[[], Iterable[Page]]
    first_page: bytes


class DatabaseApplier:
    """The only writer of one database on a replica."""

    def __init__(self, mount_dir: str, name: str, on_failed: Callable[[str], None]) -> None:
        """Args: on_failed: called when an image cannot be applied at all; the caller resnapshots."""
        self._database = MountedDatabase(mount_dir, name)
        self._journal = JournalApplier(self._database)
        self._wal: WalWriter | None = None
        self._queue: queue.SimpleQueue[Image | Callable[[], None] | None] = queue.SimpleQueue()
        self._on_failed = on_failed
        self._stopping = threading.Event()
        self._patient_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"apply-{name}", daemon=True)

    def start(self) -> None:
        """Begins; a database in WAL mode is taken over at once, before an application would write it."""
        self._thread.start()

    def apply(self, image: Image) -> None:
        """Queues an image behind those that wait."""
        self._queue.put(image)

    def run_exclusively(self, work: Callable[[], None]) -> None:
        """Lets go of the database, runs `work` on the applier's thread, and waits for it: for replacements.

        Raises:
            whatever `work` raises.
        """
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def task() -> None:
            self._let_go()
            try:
                work()
            except BaseException as error:
                done.put(error)
            else:
                self._take_over()
                done.put(None)

        self._queue.put(task)
        error = done.get()
        if error is not None:
            raise error

    def stop(self) -> None:
        """Ends the thread behind what is being applied, and lets go of all locks."""
        self._stopping.set()
        self._queue.put(None)

    def _run(self) -> None:
        self._insist(self._take_over)
        while (job := self._queue.get()) is not None:
            if callable(job):
                job()
            else:
                image = job
                self._insist(lambda image=image: self._apply(image))  # type: ignore[misc]
                self._keep_wal_short()
        self._let_go()

    def _insist(self, work: Callable[[], None]) -> None:
        """Tries until it is done, the node stops, or it is clear that it never will be."""
        while not self._stopping.is_set():
            try:
                work()
                return
            except LockHeldError as error:
                _log.warning("%s: waiting for an application: %s", self._database.name, error)
            except LinkClosedError:
                return
            except (FormatError, OSError) as error:
                if self._stopping.wait(RETRY_S):
                    return
                _log.error("%s: cannot apply: %s", self._database.name, error)
                self._on_failed(self._database.name)
                return
            self._stopping.wait(RETRY_S)

    def _take_over(self) -> None:
        header = self._database.header()
        if len(header) == DATABASE_HEADER_SIZE and is_wal_mode(header):
            self._open_wal()

    def _open_wal(self) -> None:
        if self._wal is None:
            wal = WalWriter(self._database)
            wal.open()
            self._wal = wal

    def _let_go(self) -> None:
        if self._wal is not None:
            self._wal.close()
            self._wal = None
        self._database.close()

    # ---- one image ----

    def _apply(self, image: Image) -> None:
        header = image.header
        if not header.commit:
            self._drop()
            return
        leaves_wal = bool(image.first_page) and not is_wal_mode(image.first_page)
        if self._wal is not None and leaves_wal:
            self._wal.leave_wal_mode(LOCK_TIMEOUT_S)
            self._wal = None
            self._apply_by_journal(image)
        elif self._wal is not None:
            self._wal.apply(image.pages(), header.page_size, header.commit)
        else:
            self._database.open(create=True)
            self._database.lock_exclusive(LOCK_TIMEOUT_S)
            self._apply_by_journal(image)
            if image.first_page and not leaves_wal:
                self._open_wal()

    def _apply_by_journal(self, image: Image) -> None:
        """EXCLUSIVE is held; it is released."""
        try:
            self._journal.apply(image.pages(), image.header.page_size, image.header.commit)
        finally:
            self._database.unlock()

    def _drop(self) -> None:
        self._let_go()
        database = self._database
        for path in (database.path, database.journal_path, database.wal_path, database.shm_path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue

    def _keep_wal_short(self) -> None:
        wal = self._wal
        if wal is None or wal.mx_frame < CHECKPOINT_FRAMES or not self._queue.empty():
            if wal is None or wal.mx_frame < WAL_FRAMES_LONG:
                return
        wait_s = 0.0
        now = time.monotonic()
        if wal.mx_frame >= WAL_FRAMES_LONG and now >= self._patient_at:
            wait_s = CHECKPOINT_WAIT_S
            self._patient_at = now + PATIENT_CHECKPOINT_S
        try:
            if wal.checkpoint(wait_s) == wal.mx_frame:
                wal.restart(wait_s)
        except (LockHeldError, OSError) as error:
            _log.debug("%s: checkpoint: %s", self._database.name, error)

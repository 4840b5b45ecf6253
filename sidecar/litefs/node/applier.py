"""Applies the images of one database in their order, on a thread of its own.

Strategy: the database's mode decides the way: a real rollback journal, or a WAL writer that keeps WAL_WRITE for
as long as this node is a replica. Images are in the log before any page of them is written, so those that memory is
too small for are read back from it: an application that holds a lock stops this thread and costs disk, not memory. The
lag shows it, and the holder is named. Whatever has piled up meanwhile is applied together (`image_batch`).

An image gets here on its way into the log. The rollback journal, which holds nothing but what is there already, is
made meanwhile: a third of the time from one node's commit to another's readers is waiting for other processes.

Changes of mode arrive as images of page 1:
    rollback → WAL    the journal applier commits it; then the WAL writer opens
    WAL → rollback    everything is checkpointed, WAL and wal-index go under EXCLUSIVE, then the journal applier

What cannot be applied at all, or only when an idle connection goes, ends with a snapshot: `on_failed` asks for it,
and nothing is applied until `replace` has put it in place.
"""

import errno
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litefs.errors import LiteFSError, LockHeldError
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE, is_wal_mode
from litefs.node.image import Image, LoggedImages
from litefs.node.image_batch import ImageBatch
from litefs.node.journal_applier import LOCK_TIMEOUT_S, JournalApplier
from litefs.node.mounted_database import MountedDatabase
from litefs.node.wal_writer import WalWriter

RETRY_S = 0.05
"""Pause after an attempt: readers that were kept out go first."""

NAMED_AFTER_S = 1.0
NAMED_EVERY_S = 10.0
"""When the log names an application in the way, and how often again."""

LEAVE_WAL_TIMEOUT_S = 10.0
"""An idle connection keeps a database in WAL mode; after this long it is left behind with the old inode."""

REFUSALS_MAX = 3
"""Attempts at an image that the mount refuses. A full disk is not counted: it is waited for."""

STOPPED_CHECK_S = 0.1
"""How often whoever waits for a replacement looks whether the applier was stopped before it."""

MEMORY_BYTES = 8 << 20
"""Pages of one database that wait in memory; what is beyond is read from the log when its turn comes."""

CHECKPOINT_FRAMES = 1000
"""As SQLite's own automatic checkpoint."""

WAL_FRAMES_LONG = 4000
"""A WAL this long is worth making new readers wait, once in `PATIENT_CHECKPOINT_S`."""

CHECKPOINT_WAIT_S = 0.05
PATIENT_CHECKPOINT_S = 1.0

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_log = logging.getLogger("litefs.node")


@dataclass(frozen=True, slots=True)
class _Replacement:
    """`work` puts another state in place, which is at `txid`; `done` gets None, or why not."""

    work: Callable[[], None]
    txid: int
    done: "queue.SimpleQueue[BaseException | None]"


_Job = Image | _Replacement | int | None
"""An image; a replacement; "look at the log"; the end."""


class _NotLoggedError(Exception):
    """The log did not take an image that had been offered, or whoever waits for it is to stop."""


class DatabaseApplier:
    """The only writer of one database on a replica."""

    def __init__(
        self,
        mount_dir: str,
        log_dir: Path,
        name: str,
        applied_txid: int,
        on_failed: Callable[[str], None],
        on_applied: Callable[[str, int], None],
    ) -> None:
        """Args: applied_txid: what readers see; on_failed: called when only a snapshot helps; on_applied: called
        with the transaction that readers see now.
        """
        self._database = MountedDatabase(mount_dir, name)
        self._journal = JournalApplier(self._database, before_pages=self._await_log)
        self._wal: WalWriter | None = None
        self._logged = LoggedImages(log_dir)
        self._queue: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._taken: deque[_Job] = deque()  # out of the queue, to be looked at
        self._waiting_bytes = 0
        self._waiting_lock = threading.Lock()
        self._applied_txid = self._logged_txid = applied_txid
        self._offered_txid = self._applying_txid = applied_txid
        self._log_changed = threading.Condition()
        self._must_look = False
        """Something that was offered was not kept: it has to be read from the log."""
        self._on_failed = on_failed
        self._on_applied = on_applied
        self._is_failed = False
        self._stopping = threading.Event()
        self._interrupt = threading.Event()
        self._patient_at = 0.0
        self._leave_wal_until = 0.0
        self._thread = threading.Thread(target=self._run, name=f"apply-{name}", daemon=True)
        self.waiting_since_ms: int | None = None
        """Time stamp of the image that is being applied: readers are no further behind than that."""

    def start(self) -> None:
        """Begins; a database in WAL mode is taken over at once, before an application would write it."""
        self._thread.start()

    # ---- for the follower's thread ----

    def offer(self, image: Image | None) -> None:
        """Has the image applied, in its turn, that is put into the log now; `logged` must follow.

        Args:
            image: None to have it read from the log.
        """
        with self._waiting_lock:
            if image is None or (self._waiting_bytes + image.size_bytes > MEMORY_BYTES and self._waiting_bytes):
                self._must_look = True
                return
            self._waiting_bytes += image.size_bytes
        self._offered_txid = image.header.max_txid
        self._queue.put(image)

    def logged(self, txid: int) -> None:
        """Says through which transaction the log holds what was offered; 0: nothing of it.

        What is behind that is not applied.
        """
        with self._log_changed:
            self._logged_txid = self._offered_txid = max(txid, self._logged_txid)
            self._log_changed.notify()
        if self._must_look:
            self._must_look = False
            self._queue.put(self._logged_txid)

    def apply_logged(self, txid: int) -> None:
        """Has applied what the log holds through `txid`."""
        self.offer(None)
        self.logged(txid)

    def replace(self, work: Callable[[], None], txid: int) -> None:
        """Gives up what waits, lets go of the database, and runs `work` on the applier's thread.

        Args:
            work: puts another state in place.
            txid: of that state.

        Raises:
            LiteFSError: the applier was stopped.
            whatever `work` raises.
        """
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._interrupt.set()
        self._queue.put(_Replacement(work, txid, done))
        while True:
            try:
                error = done.get(timeout=STOPPED_CHECK_S)
            except queue.Empty:
                if self._thread.is_alive():
                    continue
                raise LiteFSError(f"{self._database.name}: not replaced: its applier was stopped") from None
            if error is not None:
                raise error
            return

    def stop(self) -> None:
        """Ends the thread behind what is being applied, and lets go of all locks."""
        self._stopping.set()
        self._interrupt.set()
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Waits for the end of the thread after `stop`. Returns whether all locks are let go."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def give_up(self, reason: str) -> None:
        """Applies nothing more until the database is replaced. From any thread."""
        if not self._is_failed:
            self._fail(reason)

    @property
    def is_settled(self) -> bool:
        """Readers see everything that is in the log."""
        return self._applied_txid == self._logged_txid and not self._is_failed

    # ---- the thread ----

    def _run(self) -> None:
        self._insist(self._take_over)
        while (job := self._taken.popleft() if self._taken else self._queue.get()) is not None:
            if isinstance(job, _Replacement):
                self._replace(job)
            elif isinstance(job, Image):
                self._apply_waiting(job)
            if self._is_idle:
                self._catch_up(self._logged_txid)
            self._keep_wal_short()
            if self._applied_txid == self._logged_txid:
                self.waiting_since_ms = None
        self._let_go()
        self._logged.close()

    @property
    def _is_idle(self) -> bool:
        return not self._taken and self._queue.empty()

    def _next_waiting(self) -> Image | None:
        """Returns the image that is next in the queue, and leaves it there."""
        if not self._taken:
            try:
                self._taken.append(self._queue.get_nowait())
            except queue.Empty:
                return None
        job = self._taken[0]
        return job if isinstance(job, Image) else None

    def _apply_waiting(self, first: Image) -> None:
        """Applies an image of the queue, and what has come behind it."""
        # What comes before it and is not in the log was refused, or was not kept: the log is looked at again then.
        self._catch_up(min(first.header.min_txid - 1, self._logged_txid))
        done_bytes = first.size_bytes
        if first.header.min_txid == self._applied_txid + 1:
            batch = ImageBatch(first, in_wal_mode=self._wal is not None)
            while (image := self._next_waiting()) is not None and batch.take(image):
                self._taken.popleft()
                done_bytes += image.size_bytes
            self._apply_batch(batch)
        with self._waiting_lock:
            self._waiting_bytes -= done_bytes

    def _replace(self, job: _Replacement) -> None:
        self._interrupt.clear()
        if self._stopping.is_set():
            self._interrupt.set()
        try:
            self._let_go()
            self._logged.close()
            job.work()
        except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked for
            self._insist(self._take_over)
            job.done.put(error)
            return
        self._applied_txid = self._logged_txid = job.txid
        self._is_failed = False
        self._insist(self._take_over)
        job.done.put(None)

    def _catch_up(self, txid: int) -> None:
        """Applies what the log holds through `txid`."""
        while self._applied_txid < txid and not self._is_failed and not self._interrupt.is_set():
            try:
                batch = self._logged_batch(txid)
            except (LiteFSError, OSError) as error:
                self._fail(f"its log cannot be read: {error}")
                return
            self._apply_batch(batch)

    def _logged_batch(self, txid: int) -> ImageBatch:
        """Returns what comes next in the log, up to `txid`. Raises LiteFSError, OSError where nothing can be read."""
        batch = ImageBatch(self._logged.image(self._applied_txid + 1), in_wal_mode=self._wal is not None)
        while batch.last_txid < txid:
            try:
                image = self._logged.image(batch.last_txid + 1)
            except (LiteFSError, OSError):
                break  # met again when it is the first
            if not batch.take(image):
                break
        return batch

    def _await_log(self) -> None:
        """Waits until what is being applied is in the log.

        Raises:
            _NotLoggedError: it will not be.
        """
        if self._applying_txid <= self._logged_txid:
            return
        with self._log_changed:
            while self._applying_txid > self._logged_txid:
                if self._applying_txid > self._offered_txid or self._interrupt.is_set():
                    raise _NotLoggedError
                self._log_changed.wait(STOPPED_CHECK_S)

    def _apply_batch(self, batch: ImageBatch) -> None:
        self._applying_txid = batch.last_txid
        self.waiting_since_ms = batch.since_ms
        self._leave_wal_until = time.monotonic() + LEAVE_WAL_TIMEOUT_S
        image = batch.image()
        if self._insist(lambda: self._apply(image)):
            self._applied_txid = batch.last_txid
            self._on_applied(self._database.name, batch.last_txid)
            if self._wal is None and image.first_page:
                self._insist(self._take_over)

    def _insist(self, work: Callable[[], None]) -> bool:
        """Tries until it is done (True), a replacement or the end of the node makes it pointless, or it fails."""
        if self._is_failed or self._interrupt.is_set():
            return False
        named_at = time.monotonic() + NAMED_AFTER_S
        refusal_n = 0
        while not self._interrupt.is_set():
            try:
                work()
            except _NotLoggedError:
                break
            except LockHeldError as error:
                reason = f"waiting for an application: {error}"
            except OSError as error:
                refusal_n += error.errno not in _FULL
                reason = f"refused by the mount: {error}"
            except LiteFSError as error:
                self._fail(str(error))
                break
            except Exception as error:  # noqa: BLE001 - without this thread the database would stand still for ever
                _log.error("%s: apply", self._database.name, exc_info=error)
                self._fail("unexpected error")
                break
            else:
                return True
            if self._interrupt.wait(RETRY_S):
                break  # also where the mount is gone: the node ends with it
            if refusal_n == REFUSALS_MAX:
                self._fail(reason)
                break
            if time.monotonic() >= named_at:
                named_at = time.monotonic() + NAMED_EVERY_S
                _log.warning("%s: %s", self._database.name, reason)
        return False

    def _fail(self, reason: str) -> None:
        _log.error("%s: cannot be applied, a snapshot is needed: %s", self._database.name, reason)
        self._is_failed = True
        self._on_failed(self._database.name)

    # ---- the database's mode ----

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
        wal = self._wal
        if wal is not None or not self._database.is_open or not image.size_bytes:
            self._await_log()
        if not header.commit:
            self._drop()
            return
        if wal is not None and (not image.first_page or is_wal_mode(image.first_page)):
            wal.apply(image.pages(), header.page_size, header.commit)
            return
        if wal is not None:
            self._leave_wal(wal)
        else:
            self._database.open(create=True)
            self._database.lock_reserved(LOCK_TIMEOUT_S)
        self._journal.apply(image.pages(), header.page_size, header.commit)

    def _leave_wal(self, wal: WalWriter) -> None:
        """Ends WAL mode with EXCLUSIVE held.

        Raises:
            LockHeldError: a connection has the database open; the WAL writer goes on.
            LiteFSError: it has had it open for too long.
        """
        try:
            wal.leave_wal_mode(LOCK_TIMEOUT_S)
        except LockHeldError as error:
            if time.monotonic() > self._leave_wal_until:
                raise LiteFSError(f"a connection that stays open keeps it in WAL mode: {error}") from error
            raise
        self._wal = None

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
        if wal is None or wal.mx_frame < (CHECKPOINT_FRAMES if self._is_idle else WAL_FRAMES_LONG):
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

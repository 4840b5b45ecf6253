"""One database: its position, its page checksums, and the pieces that hold its bytes.

Strategy: this class knows what is committed. How a transaction becomes one is told elsewhere:
`journal_commit` (rollback modes), `wal_commit` (WAL mode), `replacement` (whole new states). All of
them end in `accept`, the only place where the position moves.

What may be trusted, from the oldest to the newest state:
    base file      complete through `base_txid` (S), after a crash too
    layers         committed pages on their way into the base; gone after a crash, the log has them
    log            every committed image after S; durable through `log.durable_txid`
    uncommitted    the rollback journal's overlay, the WAL behind its last commit: gone after a crash
"""

import logging
import os
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from litefs.errors import CommitRefusedError, NotPrimaryError
from litefs.formats.checksum import EMPTY_DATABASE_CHECKSUM
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE, is_wal_mode
from litefs.storage.base_file import BaseFile
from litefs.storage.disk import FREED_AT_ONCE_BYTES, Disk
from litefs.storage.expected import ExpectedImage, holds, reached
from litefs.storage.free_space import FreeSpace
from litefs.storage.latency import LatencyHistogram
from litefs.storage.log import Log
from litefs.storage.overlay import Overlay
from litefs.storage.state import DatabaseState
from litefs.storage.steps import LogSync, Steps, T, pause, run
from litefs.storage.transaction import Before, Change, Prepared, image_bytes_max, measure, prepare, prepare_small

BASE_NAME = "database"
LOG_NAME = "log"
DIRECT_PAGES_MAX = 64
"""A commit of up to so many durable pages is written into the base at once; larger ones go off the loop."""

DIRECT_SHRINK_BYTES = FREED_AT_ONCE_BYTES
"""And one that cuts off no more than this."""

_log = logging.getLogger("litefs.storage")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What all databases of a store share.

    Attributes:
        sync_every_commit: a transaction of this node is durable before it is answered, whatever the application asked
            for by `PRAGMA synchronous`.
    """

    node_id: int
    compress: bool = True
    overlay_memory_bytes: int = 64 << 20
    segment_bytes: int = 8 << 20
    sync_every_commit: bool = False


class CommitGate:
    """Says whether this node may commit now. The filesystem process moves the deadline."""

    def __init__(self, primary_until: float, clock: Callable[[], float]) -> None:
        """Args: primary_until: in seconds of `clock`; 0 for a replica."""
        self.primary_until = primary_until
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """The lease, less its margin, has not run out."""
        return self._clock() < self.primary_until


class Database:
    """Committed state of one database, and what is under way.

    Attributes:
        txid, checksum: the position that readers see.
        page_size, page_n: of that state; 0 before the first commit, `page_n` 0 after a drop.
        sums: page checksums of that state, page `pgno` at index `pgno - 1`.
        base_txid: S, see the module's docstring.
        is_state_busy: the state file, or every file, is being replaced in a thread: whoever is next waits.
        complete: the last state that the base file was known to hold all of; S may move to it.
        stale: pages that the base (with its layers) does not show as committed: in WAL mode those whose
            newest content still lies in the WAL only.
        exists: the name shows in the mount.
        commit_latency: of the commits of this node, from when the image is begun until the position moves. What an
            application waits for besides is its own work, the kernel's, and in WAL mode the sync that comes after.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        disk: Disk,
        space: FreeSpace,
        settings: StoreSettings,
        gate: CommitGate,
        state: DatabaseState,
    ) -> None:
        """Args: directory: `<data>/dbs/<name>`, exists; state: as read or as recovery made it."""
        self.name = name
        self.directory = directory
        self.disk = disk
        self.settings = settings
        self.gate = gate
        self.base = BaseFile(disk, directory / BASE_NAME, state.page_size)
        self.log = Log(disk, directory / LOG_NAME, settings.segment_bytes)
        self.txid = self.base_txid = state.base_txid
        self.checksum = state.checksum
        self.page_size = state.page_size
        self.page_n = state.page_n
        self.timestamp_ms = state.timestamp_ms
        self.group = state.group
        self.exists = state.page_n > 0
        self.commit_latency = LatencyHistogram()
        self._deciding_since = 0.0
        self.sums: array[int] = array("Q")
        self.stale: set[int] = set()
        self.expected: deque[ExpectedImage] = deque()
        self._shown: tuple[int, int] | None = None
        self.size = self.base.size
        self.wal_mode = False
        self.is_state_busy = False
        self._is_settling = False
        self.complete = state
        self._space = space
        self.on_accept: Callable[[Database], None] = lambda database: None
        self.note_header()

    # ---- what is committed ----

    def note_header(self) -> None:
        """Reads again what page 1 says, after it changed in the base file or its layers."""
        header = self.base.read(0, DATABASE_HEADER_SIZE)
        self.wal_mode = len(header) == DATABASE_HEADER_SIZE and is_wal_mode(header)

    @property
    def logged_txid(self) -> int:
        """The last image in the log: beyond `txid` on a replica that has yet to apply some."""
        return self.expected[-1].txid if self.expected else self.txid

    def before(self) -> Before:
        """Returns the state that the next transaction starts from."""
        return Before(
            txid=self.txid,
            checksum=self.checksum,
            page_n=self.page_n,
            sums=self.sums,
            page_size=self.page_size,
            node_id=self.settings.node_id,
            compress=self.settings.compress,
        )

    def new_overlay(self, page_size: int) -> Overlay:
        """Returns an empty overlay that spills into this database's directory."""
        return Overlay(self.disk, self.directory, page_size, self.settings.overlay_memory_bytes)

    def learn_page_size(self, page_size: int) -> None:
        """Sets the page size of a database that has none yet, or takes another one when it is empty."""
        self.base.freeze_newest()  # a layer that waits, of a drop for one, counts in pages of the old size
        self.page_size = self.base.page_size = page_size

    def check_space(self, page_n: int) -> None:
        """Does nothing if a transaction that wrote `page_n` pages so far will find room. A replica is not asked.

        Raises:
            OSError: ENOSPC, where SQLite still says "database or disk is full".
        """
        if self.gate.is_open:
            needed = image_bytes_max(page_n, self.page_size)
            if not self.log.has_room(needed):
                needed += self.log.spare_capacity()
            self._space.check(needed)

    # ---- commits ----

    def prepare(self, change: Change, group: int = 0) -> Steps[Prepared]:
        """Decides about a transaction and puts its image into the log; synced if every commit is.

        First the change is compared with the committed state: what changes nothing always succeeds,
        on a replica too, or a hot journal could never be rolled back. Only then does the role decide.

        Returns:
            The prepared transaction; its `record` is None if nothing changed.

        Raises:
            CommitRefusedError: this node may not commit, the pages are not those of the next images, or the sync
                failed. Nothing of it is in the log.
            OSError: the log cannot take the image.
            DiskLostError: the process must stop.
        """
        if self.gate.is_open and not self.expected:
            self._deciding_since = time.perf_counter()
            prepared = yield from prepare(self.log, self.before(), change, group)
            if self.settings.sync_every_commit:
                yield from self.make_durable(prepared)
            elif not self.may_accept(prepared):
                yield from self._refuse_late(prepared)
            return prepared
        measured = yield from measure(self.before(), change)
        if measured.post_apply == self.checksum and measured.commit == self.page_n and not measured.sums:
            return measured
        if not self.expected:
            raise NotPrimaryError(f"{self.name}: this node is not the primary")
        image = reached(self.expected, measured.post_apply, measured.commit)
        if image is None:
            image = self.expected[0]
            raise CommitRefusedError(
                f"{self.name}: applied pages give {measured.post_apply:016x}, "
                f"image {image.txid:016x} wants {image.post_apply:016x}"
            )
        measured.txid = image.txid
        measured.timestamp_ms = image.timestamp_ms
        measured.record = image.record
        return measured

    def prepare_small(self, change: Change) -> Prepared:
        """`prepare` for few pages, at one go. Not where every commit is synced."""
        if self.gate.is_open and not self.expected:
            self._deciding_since = time.perf_counter()
            return prepare_small(self.log, self.before(), change)
        return run(self.prepare(change))

    def make_durable(self, prepared: Prepared) -> Steps[None]:
        """Syncs the image of a prepared transaction; others run meanwhile.

        Crash: image synced, nobody was told: recovery commits it.

        Raises:
            CommitRefusedError: the sync failed, or the lease ran out meanwhile. The image is voided, and commits
                before it are as durable as they were.
            DiskLostError: the process must stop.
        """
        if prepared.record is None:
            return
        try:
            yield from self.sync_log()
        except OSError as error:
            yield from self.void(prepared)
            raise CommitRefusedError(f"{self.name}: log sync: {error}") from error
        if not self.may_accept(prepared):
            yield from self._refuse_late(prepared)

    def _refuse_late(self, prepared: Prepared) -> Steps[None]:
        yield from self.void(prepared)
        raise NotPrimaryError(f"{self.name}: this node ceased to be the primary")

    def may_accept(self, prepared: Prepared) -> bool:
        """Says whether a prepared transaction may still become the state: the lease may have run out since.

        What changes nothing always may, and so may the image that the primary sent.
        """
        if prepared.record is None and prepared.planned is None:
            return True
        return self.gate.is_open or holds(self.expected, prepared.record)

    def void(self, prepared: Prepared) -> Steps[None]:
        """Takes back a prepared transaction that will not commit, durably.

        An image that came from the primary stays: it is still to be applied.

        Raises:
            DiskLostError: the process must stop.
        """
        if prepared.record is not None and not holds(self.expected, prepared.record):
            yield from self.log.void(prepared.record, self.txid)

    def accept(self, prepared: Prepared) -> None:
        """Moves the position to a prepared transaction. Nothing in here may fail: the image is in the log."""
        if self._deciding_since and not self.expected:
            self.commit_latency.observe(time.perf_counter() - self._deciding_since)
            self._deciding_since = 0.0
        self._accept(prepared)
        self._accept_unchanged()

    @property
    def shown_position(self) -> tuple[int, int]:
        """(txid, checksum) that every new reader finds at least; what `NAME-pos` says."""
        return self._shown or (self.txid, self.checksum)

    def withhold_position(self) -> None:
        """An image arrives through the WAL: its last frame is here a moment before the wal-index shows it."""
        if self._shown is None:
            self._shown = (self.txid, self.checksum)

    def show_position(self, txid: int) -> None:
        """Readers find everything through `txid` now."""
        if txid >= self.txid:
            self._shown = None

    def expect(self, image: ExpectedImage) -> None:
        """Takes note of an image that is in a replica's log: its pages are to come through the mount."""
        self.expected.append(image)
        self._accept_unchanged()

    def _accept_unchanged(self) -> None:
        """Moves the position over images that change nothing: what comes through the mount would not show it."""
        while self.expected and self._is_unchanged_by(self.expected[0]):
            image = self.expected[0]
            self._accept(
                Prepared(
                    txid=image.txid,
                    post_apply=image.post_apply,
                    commit=image.commit,
                    timestamp_ms=image.timestamp_ms,
                    sums=[],
                    record=image.record,
                )
            )

    def _is_unchanged_by(self, image: ExpectedImage) -> bool:
        if image.sums is None or image.commit != self.page_n:
            return False
        return all(self.sums[pgno - 1] == checksum for pgno, checksum in image.sums)

    def _accept(self, prepared: Prepared) -> None:
        sums, commit = self.sums, prepared.commit
        if commit > len(sums):
            sums.frombytes(bytes(8 * (commit - len(sums))))
        for pgno, checksum in prepared.sums:
            sums[pgno - 1] = checksum
        if commit < len(sums):
            del sums[commit:]
            self.stale = {pgno for pgno in self.stale if pgno <= commit}
        self.page_n = commit
        self.txid = prepared.txid
        self.checksum = prepared.post_apply if commit else EMPTY_DATABASE_CHECKSUM
        self.timestamp_ms = prepared.timestamp_ms
        if prepared.group:
            self.group = prepared.group
        while self.expected and self.expected[0].txid <= prepared.txid:
            self.expected.popleft()
        self.on_accept(self)

    def drop(self) -> Steps[None]:
        """Commits the removal of the database: an image without pages, after which the position goes on.

        Raises:
            NotPrimaryError: neither primary nor is this the removal that the primary sent.
            OSError: the log cannot take the image.
        """
        self.exists = False
        try:
            yield from self.clear()
        except BaseException:
            self.exists = True
            raise

    def clear(self) -> Steps[None]:
        """Commits an empty database. Raises as `drop`."""
        prepared = yield from self.prepare(Change(pgnos=(), read=self.base.page, commit=0))
        self.stale.clear()
        self.accept(prepared)
        self.lay_down(self.new_overlay(self.page_size), prepared.txid)
        self.size = 0

    def lay_down(self, overlay: Overlay, txid: int) -> None:
        """Sends the pages of an accepted rollback-mode transaction towards the base; takes the overlay over.

        Raises nothing: what the base cannot take now waits in a layer and is tried again.
        """
        base, size = self.base, self.page_n * self.page_size
        try:
            if (first := overlay.get(1)) is not None:
                self.wal_mode = is_wal_mode(first)
            if len(overlay) <= DIRECT_PAGES_MAX and base.committed_size() - size <= DIRECT_SHRINK_BYTES:
                self._lay_down_now(overlay, txid, size)
                return
        except OSError as error:
            _log.warning("%s: base file: %s; the pages wait in memory", self.name, error)
        overlay.truncate(size)  # SQLite cuts the file later, and it may grow again before the layer is written
        base.push_layer(overlay, txid, size)

    def _lay_down_now(self, overlay: Overlay, txid: int, size: int) -> None:
        base, durable = self.base, self.log.durable_txid
        if (limit := min(overlay.base_limit, size)) < base.committed_size():
            base.resize(limit, txid, durable)
        for pgno in sorted(overlay.pages):
            if pgno <= self.page_n:
                page = overlay.get(pgno)
                assert page is not None
                base.put(pgno, page, txid, durable)
        if base.committed_size() != size:
            base.resize(size, txid, durable)
        overlay.close()

    # ---- durability, off the loop ----

    def sync_log(self) -> Steps[None]:
        """Makes everything in the log durable; others run meanwhile. What was replaced needs no sync.

        Raises:
            OSError: durability of what was appended since the last sync is unknown.
        """
        log = self.log
        fds, txid = log.unsynced()
        revision_n = log.revision_n
        if fds and not log.is_retired:
            with log.in_use():
                yield LogSync(lambda: log.sync_descriptors(fds))
                if log.revision_n == revision_n:
                    log.synced(fds, txid)

    def settle(self) -> Steps[None]:
        """Syncs the log if it has to be, and writes waiting layers into the base; others run meanwhile.

        Raises:
            OSError: the log could not be synced (the disk is lost), or the base not written (try again later).
        """
        while self._is_settling:
            yield pause
        self._is_settling = True  # or two would write the same layer, one of them over the pages of the next
        try:
            self.base.freeze_newest()
            yield from self.sync_log()
            base = self.base
            with base.in_use():
                while not base.is_retired and (layer := base.freeze(self.log.durable_txid)) is not None:
                    yield partial(base.write_layer, layer)
                    base.written(layer)
            self.note_complete()
        finally:
            self._is_settling = False

    def note_complete(self) -> None:
        """Takes note of the present state if the base file holds all of it: S may move there.

        In WAL mode that is so when a checkpoint has caught up, and under steady writing at no other time.
        """
        base = self.base
        if base.is_retired or self.stale or base.layers or self.log.durable_txid < self.txid:
            return
        if base.size < self.page_n * self.page_size:
            base.truncate_file(self.page_n * self.page_size, self.txid)
        self.complete = self.state_now()

    def alone(self, work: Callable[[], T]) -> Steps[T]:
        """Replaces the state file, or every file, in a thread, when nobody else does."""
        while self.is_state_busy:
            yield pause
        self.is_state_busy = True
        try:
            result: T = yield work
        finally:
            self.is_state_busy = False
        return result

    def state_now(self) -> DatabaseState:
        """Returns the state file's content for a base that is complete through the current position."""
        return DatabaseState(
            base_txid=self.txid,
            checksum=self.checksum,
            page_size=self.page_size,
            page_n=self.page_n,
            timestamp_ms=self.timestamp_ms,
            group=self.group,
        )

    def reopen(self, state: DatabaseState, sums: "array[int]") -> None:
        """Goes on with the base file and the empty log that a replacement put in place.

        The old ones are retired and not closed: a thread may be writing or syncing them.
        """
        self.base.retire()
        self.log.retire()
        self.base = BaseFile(self.disk, self.directory / BASE_NAME, state.page_size)
        self.log = Log(self.disk, self.directory / LOG_NAME, self.settings.segment_bytes)
        self.log.adopt([], state.base_txid)
        self.txid = self.base_txid = state.base_txid
        self.checksum, self.page_size, self.page_n = state.checksum, state.page_size, state.page_n
        self.timestamp_ms, self.group, self.exists = state.timestamp_ms, state.group, state.page_n > 0
        self.sums = sums
        self.complete = state
        self.stale.clear()
        self.expected.clear()
        self.size = self.base.size
        self.note_header()
        self.on_accept(self)

    @staticmethod
    def now_ms() -> int:
        """Returns the time stamp of a commit made now, Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def close(self) -> None:
        """Closes all descriptors; writes nothing."""
        self.base.close()
        self.log.close()

    def attributes(self) -> os.stat_result:
        """Returns mode, owner and times as kept on the base file."""
        return os.fstat(self.base.fd)

"""The log of one database: LTX images in segments. What is in here and synced is committed for ever.

Strategy: images are appended to a segment whose blocks already hold zeros, so that one `fdatasync`
makes a commit durable without a size change or an extent conversion (a quarter of the cost of a file
per transaction). The next segment is made ready beside the current one, off the commit path: all that is
left to do when the current one is full is to give it its name. That name is synced with the images in it.

Guarantees:
    1. `append` either puts a whole record behind the last one, or raises and leaves the log as it was:
       what a failed append wrote lies behind the end and is overwritten by the next.
    2. After `sync_descriptors` returned, every record that was there when `unsynced` was asked is durable.
    3. `void` is durable before it returns: a voided image is never recovered.

Assumes: one writer; readers (`log_reader`) open the segments by themselves and stay behind committed txids.
"""

import errno
import os
import secrets
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from litefs.errors import DiskLostError
from litefs.storage.disk import Disk
from litefs.storage.log_format import (
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    SEGMENT_HEADER_SIZE,
    STATE_OFFSET,
    RecordState,
    encode_record_header,
    encode_segment_header,
    padded,
    segment_name,
)
from litefs.storage.retirement import Retirable
from litefs.storage.steps import Steps

FIRST_SEGMENT_BYTES = 256 << 10
"""A new database starts small, so that hundreds of idle ones cost little; each next segment is twice as large."""

SPARE_PREFIX = "spare-"

NEW_NAMES = -1
"""Among the descriptors to sync: the directory, where a segment got its name since."""

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """Where an image lies: enough to void it, to mark it live, or to read it back."""

    fd: int
    offset: int
    length: int
    min_txid: int
    max_txid: int
    group: int
    post_apply: int
    segment_id: int


@dataclass(frozen=True, slots=True)
class Spare:
    """A segment without its name: a durable header and zeros, `capacity` bytes in all."""

    path: Path
    fd: int
    segment_id: int
    capacity: int


@dataclass(slots=True)
class Segment:
    """One file of the log. `capacity` is its size in zeroed or used bytes."""

    path: Path
    fd: int
    segment_id: int
    first_txid: int
    last_txid: int
    end: int
    capacity: int
    last_append_s: float


class StreamAppend:
    """An image on its way into the log. Until it is finished the log ends before it.

    Crash: the header is written last; until it is there the log ends before the image, whatever lies behind.
    """

    def __init__(self, log: "Log", disk: Disk, segment: Segment, min_txid: int, max_txid: int) -> None:
        """Args: segment: takes the image from its present end."""
        self._log = log
        self._disk = disk
        self._segment = segment
        self._txids = (min_txid, max_txid)
        self._position = segment.end + RECORD_HEADER_SIZE

    def write(self, data: bytes) -> None:
        """Writes the next piece. Raises OSError: the image is given up."""
        self._disk.write("log.append_chunk", self._segment.fd, data, self._position)
        self._position += len(data)

    def copy_from(self, fd: int, size: int) -> None:
        """Takes `size` bytes from the start of another file as the next piece."""
        if self._disk.copy("log.append_copy", fd, self._segment.fd, 0, self._position, size) != size:
            raise OSError("the spooled image is shorter than it was said to be")
        self._position += size

    def give_up(self) -> None:
        """Lets others append again. Nothing happens if the image is finished."""
        self._log.is_held = False

    def finish(self, post_apply: int, *, group: int = 0, state: int = RecordState.LIVE) -> LogRecord:
        """Writes the header, which makes the image part of the log. It is durable after the next sync.

        Raises:
            OSError: the image is given up.
            DiskLostError: it may count after a restart, so the process must not go on.
        """
        segment = self._segment
        offset = segment.end
        length = self._position - offset - RECORD_HEADER_SIZE
        min_txid, max_txid = self._txids
        header = encode_record_header(
            state, length, min_txid, max_txid, group, post_apply, segment.segment_id, self._log.durable_txid
        )
        try:
            self._disk.write("log.append_header", segment.fd, header, offset)
        except OSError:
            self._log.strike_out(segment)
            raise
        self._log.is_held = False
        return self._log.appended(
            segment, LogRecord(segment.fd, offset, length, min_txid, max_txid, group, post_apply, segment.segment_id)
        )


class Log(Retirable):
    """Appends images, makes them durable, voids them, and forgets old ones.

    `is_held`: nothing is appended, for an image is being streamed or voided, or the log is about to be replaced.
    `revision_n`: how often a record was voided or marked live: a sync under way may have written it as it was before.
    """

    def __init__(self, disk: Disk, directory: Path, segment_bytes: int) -> None:
        """Args: directory: exists; segment_bytes: size of segments once the database has grown to it."""
        super().__init__()
        self._disk = disk
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._closed: deque[Segment] = deque()
        self._current: Segment | None = None
        self._spare: Spare | None = None
        self._unsynced: dict[int, int] = {}  # descriptor → number of its last change, in the order to sync them
        self._change_n = 0
        self.last_txid = 0
        self.durable_txid = 0
        self.size_bytes = 0
        self.revision_n = 0
        self.is_doubtful = False
        self.is_held = False
        self._are_names_doubtful = False

    # ---- appending ----

    def append(
        self,
        image: bytes,
        min_txid: int,
        max_txid: int,
        post_apply: int,
        *,
        group: int = 0,
        state: int = RecordState.LIVE,
    ) -> LogRecord:
        """Puts an image behind the last one. It is durable after the next sync.

        Raises:
            OSError: the disk is full or failed, or (EBUSY) an image that is prepared or being appended is in the
                way; the log is as it was.
            DiskLostError: the image may count after a restart, so the process must not go on.
        """
        self._check_follows(min_txid)
        length = len(image)
        segment = self._segment_for(length, min_txid)
        header = encode_record_header(
            state, length, min_txid, max_txid, group, post_apply, segment.segment_id, self.durable_txid
        )
        offset = segment.end
        try:
            self._disk.write("log.append", segment.fd, header + image, offset)
        except OSError:
            self.strike_out(segment)
            raise
        return self.appended(
            segment, LogRecord(segment.fd, offset, length, min_txid, max_txid, group, post_apply, segment.segment_id)
        )

    def begin_stream(self, min_txid: int, max_txid: int, size_hint: int) -> "StreamAppend":
        """Begins to put an image behind the last one, piece by piece. Nothing else may be appended until it ends.

        Whoever begins ends it, by `finish` or `give_up`.

        Raises:
            OSError: as `append`.
        """
        self._check_follows(min_txid)
        stream = StreamAppend(self, self._disk, self._segment_for(size_hint, min_txid), min_txid, max_txid)
        self.is_held = True
        return stream

    def _check_follows(self, min_txid: int) -> None:
        """Two images for one transaction in the log, and recovery would take the first, whichever was meant."""
        self._check_free()
        if min_txid != self.last_txid + 1:
            raise OSError(errno.EBUSY, f"image {min_txid:016x}: another one is prepared")

    def _check_free(self) -> None:
        if self.is_held:
            raise OSError(errno.EBUSY, f"{self.directory}: an image is being appended, or prepared to be taken back")

    def appended(self, segment: Segment, record: LogRecord) -> LogRecord:
        """Takes note of a record that is written whole. Returns it."""
        segment.end = record.offset + RECORD_HEADER_SIZE + padded(record.length)
        segment.last_txid = self.last_txid = record.max_txid
        segment.last_append_s = time.monotonic()
        self.size_bytes += RECORD_HEADER_SIZE + padded(record.length)
        self._changed(segment.fd)
        return record

    def _changed(self, fd: int) -> None:
        self._change_n += 1
        self._unsynced[fd] = self._change_n

    def strike_out(self, segment: Segment) -> None:
        """Makes sure that what a failed append left at the end of a segment is no record after a restart.

        Raises:
            DiskLostError: it may be one.
        """
        try:
            if self._disk.read("log.look_back", segment.fd, len(RECORD_MAGIC), segment.end) == RECORD_MAGIC:
                self._disk.write("log.strike_out", segment.fd, bytes(RECORD_HEADER_SIZE), segment.end)
                self._disk.sync("log.strike_out_sync", segment.fd)
        except OSError as error:
            raise DiskLostError(f"{segment.path}: a refused image may be in the log: {error}") from error

    # ---- durability ----

    def unsynced(self) -> tuple[dict[int, int], int]:
        """Returns (descriptors to sync in this order, each with its last change; the txid that is durable then)."""
        return self._unsynced.copy(), self.last_txid

    def sync_descriptors(self, fds: Iterable[int]) -> None:
        """Syncs what `unsynced` named: the line that makes a commit durable. Safe to call off the loop.

        Raises:
            OSError: it failed now or before: later syncs do not write again what a failed one lost.
        """
        if self.is_doubtful:
            raise OSError(errno.EIO, "an earlier sync of the log failed")
        try:
            for fd in fds:
                if fd == NEW_NAMES:
                    self._sync_names()
                else:
                    self._disk.sync("log.sync", fd)
        except OSError:
            self.is_doubtful = True
            raise

    def _sync_names(self) -> None:
        try:
            self._disk.sync_directory("log.sync_names", self.directory)
        except OSError:
            self._are_names_doubtful = True
            raise

    def synced(self, fds: Mapping[int, int], txid: int) -> None:
        """Takes note that `sync_descriptors(fds)` returned; both as `unsynced` said. What changed since stays."""
        for fd, change in fds.items():
            if self._unsynced.get(fd) == change:
                del self._unsynced[fd]
        self.durable_txid = max(self.durable_txid, min(txid, self.last_txid))

    def void(self, record: LogRecord, last_txid: int) -> Steps[None]:
        """Strikes the last record out, durably; `last_txid` is the one before it. Nothing is appended meanwhile.

        Crash: before the sync returns either outcome may be found, and nobody was told of one yet.

        Raises:
            DiskLostError: the record may count after a restart, or a failed sync left older ones in doubt, so the
                process must not go on.
        """
        if self._are_names_doubtful or (self.is_doubtful and self.durable_txid < last_txid):
            raise DiskLostError(f"{self.directory}: a sync failed, and commits before it or after it depend on it")
        self.is_held = True
        try:
            with self.in_use():
                yield lambda: self._strike_void(record)
        except OSError as error:
            raise DiskLostError(
                f"cannot void transaction {record.max_txid:016x} in {self.directory}: {error}"
            ) from error
        finally:
            self.is_held = False
        self.is_doubtful = False
        self.revision_n += 1  # a sync under way has not seen the image that will bear this txid next
        segment = self._current
        if segment is not None and segment.fd == record.fd and last_txid < record.min_txid:
            self.size_bytes -= segment.end - record.offset
            segment.end = record.offset
            segment.last_txid = self.last_txid = last_txid
            self.durable_txid = min(self.durable_txid, last_txid)

    def _strike_void(self, record: LogRecord) -> None:
        # The next header comes here, and of that a power cut may leave the sector with the state only.
        self._disk.write("log.void", record.fd, bytes(RECORD_HEADER_SIZE), record.offset)
        self._disk.sync("log.void_sync", record.fd)

    def mark_live(self, record: LogRecord) -> None:
        """Turns a prepared record into a live one. Durable after the next sync, as if it was appended just now.

        Crash: a prepared record may have been durable for long, and counts for nothing without this mark.
        """
        self._disk.write("log.mark_live", record.fd, bytes([RecordState.LIVE]), record.offset + STATE_OFFSET)
        self._changed(record.fd)
        self.revision_n += 1
        self.durable_txid = min(self.durable_txid, record.min_txid - 1)

    # ---- segments ----

    def adopt(self, segments: list[Segment], durable_txid: int) -> None:
        """Takes over what recovery found, oldest first; the last one is appended to."""
        self._closed = deque(segments[:-1])
        self._current = segments[-1] if segments else None
        self.last_txid = self.durable_txid = durable_txid
        self.size_bytes = sum(segment.end for segment in segments)

    def first_txid(self) -> int:
        """Returns the oldest image in the log, or 0 if it is empty."""
        segment = self._closed[0] if self._closed else self._current
        return segment.first_txid if segment is not None and segment.end > SEGMENT_HEADER_SIZE else 0

    def wants_spare(self) -> bool:
        """No next segment stands ready, and the current one is half full or missing."""
        if self._spare is not None or self.is_held or self.is_retired:
            return False
        segment = self._current
        return segment is None or segment.end * 2 > segment.capacity

    def spare_capacity(self) -> int:
        """Returns the size in bytes that the next segment should have."""
        current = self._current.capacity if self._current is not None else FIRST_SEGMENT_BYTES // 2
        return max(min(current * 2, self._segment_bytes), min(FIRST_SEGMENT_BYTES, self._segment_bytes))

    def has_room(self, length: int) -> bool:
        """Says whether the next image of up to `length` bytes waits for no disk."""
        return self._spare is not None or self._fits(length)

    def make_room(self, length: int) -> Steps[None]:
        """Sees to it that the next image of up to `length` bytes waits for no disk; others run meanwhile.

        Raises:
            OSError: the disk is full or failed, or (EBUSY) as `append`; the log is as it was.
        """
        self._check_free()
        if not self.has_room(length):
            capacity = self.spare_capacity()
            with self.in_use():
                self.take_spare((yield lambda: self.make_spare(capacity)))

    def make_spare(self, capacity: int) -> "Spare":
        """Makes a file that is ready to become a segment, durably. Safe off the loop: each has a name of its own.

        Crash: without the name of a segment it is removed by the next start.

        Raises:
            OSError: the disk is full or failed; nothing is left of it.
        """
        path = self.directory / f"{SPARE_PREFIX}{secrets.token_hex(8)}"
        segment_id = secrets.randbits(64)
        fd = self._disk.open("log.spare", path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            for offset in range(0, capacity, len(_ZEROS)):
                self._disk.write("log.spare_zeros", fd, _ZEROS[: capacity - offset], offset)
            self._disk.write("log.spare_header", fd, encode_segment_header(segment_id), 0)
            self._disk.sync("log.spare_sync", fd)
            if self._current is None:
                for directory in (self.directory.parent, self.directory.parent.parent):
                    self._disk.sync_directory("log.parents", directory)
        except OSError:
            # It may be what fills the disk.
            self._disk.close("log.spare_close", fd)
            self._disk.unlink("log.spare_unlink", path)
            raise
        return Spare(path, fd, segment_id, capacity)

    def take_spare(self, spare: "Spare") -> None:
        """Keeps what `make_spare` returned for the next segment; one is enough, and none where the log was replaced."""
        if self._spare is None and not self.is_retired:
            self._spare = spare
            return
        self._disk.close("log.spare_close", spare.fd)
        if not self.is_retired:  # its directory has another name now, under which it goes as a whole
            self._disk.unlink("log.spare_unlink", spare.path)

    def _fits(self, length: int) -> bool:
        """The current segment takes an image of `length` bytes. An empty one takes any, and grows."""
        segment = self._current
        if segment is None:
            return False
        end = segment.end
        return end == SEGMENT_HEADER_SIZE or end + RECORD_HEADER_SIZE + padded(length) <= segment.capacity

    def _segment_for(self, length: int, min_txid: int) -> Segment:
        if self._current is not None and self._fits(length):
            return self._current
        return self._roll(min_txid)

    def _roll(self, first_txid: int) -> Segment:
        """Starts the next segment. Waits for the disk only where nobody made room before.

        Crash: a segment appears under its name with its header, which has long been durable, or not at all. Without
        its name only images are lost that were never reported durable, for the name is synced with them.
        """
        if self._spare is None:
            self._spare = self.make_spare(self.spare_capacity())
        spare = self._spare
        path = self.directory / segment_name(first_txid)
        self._disk.rename("log.segment_rename", spare.path, path)
        self._spare = None
        self._changed(NEW_NAMES)
        self.size_bytes += SEGMENT_HEADER_SIZE
        if self._current is not None:
            self._closed.append(self._current)
        self._current = Segment(
            path, spare.fd, spare.segment_id, first_txid, 0, SEGMENT_HEADER_SIZE, spare.capacity, time.monotonic()
        )
        return self._current

    def forget(
        self, through_txid: int, older_than_s: float, needed: Sequence[int] = (), kept_bytes: int = 0
    ) -> list[Segment]:
        """Takes segments out whose images are all at or before `through_txid` and older than `older_than_s`.

        Args:
            older_than_s: `time.monotonic()` value; a segment last appended to after it stays.
            needed: what comes behind these transactions stays too, as long as the log is no larger than `kept_bytes`.

        Returns:
            The segments, for `remove`; none while the log is held, or when it was replaced.
        """
        doomed: list[Segment] = []
        if self.is_held or self.is_retired:
            return doomed  # a segment of the log that takes this one's place may have its name by then
        while self._closed:
            segment = self._closed[0]
            first = segment.first_txid - 1
            if segment.last_txid > through_txid or segment.last_append_s > older_than_s or segment.fd in self._unsynced:
                break
            if self.size_bytes <= kept_bytes and any(first <= txid < segment.last_txid for txid in needed):
                break
            self.size_bytes -= segment.end
            doomed.append(self._closed.popleft())
        return doomed

    def remove(self, segments: list[Segment]) -> None:
        """Removes the files of segments that were taken out, oldest first. Safe off the loop."""
        for segment in segments:
            self._disk.close("log.forget_close", segment.fd)
        for segment in segments:
            self._disk.unlink("log.forget", segment.path)

    def close(self) -> None:
        """Closes all descriptors; syncs nothing."""
        for segment in [*self._closed, *([self._current] if self._current else [])]:
            self._disk.close("log.close", segment.fd)
        if self._spare is not None:
            self._disk.close("log.close", self._spare.fd)
        self._closed.clear()
        self._unsynced.clear()
        self._current = self._spare = None

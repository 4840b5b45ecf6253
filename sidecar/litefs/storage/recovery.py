"""Start-up: from what lies on disk to databases that are known to be right.

One rule: take the longest valid contiguous run of images after S, lay their pages over the base, and
check the XOR checksum over every page. Journal, WAL and shared memory of the last life do not exist.

What is found, and what it means:
    no valid record after the run                torn tail of the last life: the log ends here
    a later record calls the missing one durable damage: refuse to start, say which image
    a prepared record of a group                 counts iff a record of that group is live in any database
    a segment without a valid header             damage: it gets its name only when its header is durable
    pages, but neither state file nor images     damage: nothing says what they are
    the checksum over the pages is another       base or log are damaged: refuse to start

Crash: until all is verified recovery changes nothing but pages of the base that the log after S holds. Then it
removes what lies behind the log's end, durably: an image that was left out now must not be found by a later start,
when the images of this life may end where it begins. It can be cut off and begun again at any point.
"""

import logging
import os
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from litefs.errors import CorruptStateError, FormatError
from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, page_checksums
from litefs.formats.ltx_decoder import FEED_BYTES, LtxDecoder
from litefs.storage.base_file import WRITE_RUN_BYTES
from litefs.storage.database import LOG_NAME, Database
from litefs.storage.disk import Disk
from litefs.storage.log import SPARE_PREFIX, Segment
from litefs.storage.log_format import (
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    STATE_OFFSET,
    RecordHeader,
    RecordState,
    decode_record_header,
    decode_segment_header,
    padded,
    segment_txid,
)

_log = logging.getLogger("litefs.storage")

Progress = Callable[[str, int, int], None]
"""Called with (database, bytes verified, bytes in all)."""


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record whose header is valid, and where its image begins."""

    header: RecordHeader
    segment: Segment
    offset: int


@dataclass(slots=True)
class FoundLog:
    """All segments of a log, oldest first, and the headers of the records in them."""

    segments: list[Segment]
    records: list[FoundRecord]

    def live_groups(self) -> set[int]:
        """Returns the groups that a live record here decides."""
        return {r.header.group for r in self.records if r.header.group and r.header.state == RecordState.LIVE}

    def last_txid(self) -> int:
        """Returns the last image, whether it would count or not; 0 if there is none."""
        return max((r.header.max_txid for r in self.records), default=0)

    def close(self, disk: Disk) -> None:
        """Closes the segments of a log that is not taken over."""
        for segment in self.segments:
            disk.close("recovery.close_segment", segment.fd)
        self.segments.clear()


def scan_log(disk: Disk, directory: Path) -> FoundLog:
    """Reads the headers of a log. Files with other names are left alone.

    Raises:
        CorruptStateError: a segment has no valid header.
    """
    found = FoundLog([], [])
    names = {path: txid for path in directory.iterdir() if (txid := segment_txid(path.name)) is not None}
    for path, first_txid in sorted(names.items()):
        fd = disk.open("recovery.open_segment", path, os.O_RDWR)
        segment = Segment(path, fd, 0, first_txid, 0, SEGMENT_HEADER_SIZE, os.fstat(fd).st_size, 0.0)
        found.segments.append(segment)
        try:
            segment.segment_id = decode_segment_header(disk.read("recovery.segment", fd, SEGMENT_HEADER_SIZE, 0))
        except FormatError as error:
            found.close(disk)
            raise CorruptStateError(f"{path}: {error}") from error
        _scan_segment(disk, segment, found.records)
    return found


def _scan_segment(disk: Disk, segment: Segment, records: list[FoundRecord]) -> None:
    offset = SEGMENT_HEADER_SIZE
    while True:
        try:
            header = decode_record_header(disk.read("recovery.record", segment.fd, RECORD_HEADER_SIZE, offset))
        except FormatError:
            return
        if header.segment_id != segment.segment_id:
            return
        records.append(FoundRecord(header, segment, offset + RECORD_HEADER_SIZE))
        offset += RECORD_HEADER_SIZE + padded(header.length)


def recover(database: Database, found: FoundLog, live_groups: set[int], progress: Progress) -> None:
    """Brings a database to its newest committed state and verifies it.

    Args:
        database: as its state file says, with nothing adopted yet.
        found: its log, as `scan_log` found it.
        live_groups: groups decided in any database of the store.

    Raises:
        CorruptStateError: log and base do not add up. Nothing was deleted.
        OSError: the disk failed.
    """
    run = _contiguous_run(database, found, live_groups)
    # Pages reach the base only when the log is durable, and what survived the death of a process may
    # still be in the page cache only, the name of a segment included.
    for segment in found.segments:
        database.disk.sync("recovery.sync_log", segment.fd)
    if found.segments:
        database.disk.sync_directory("recovery.sync_names", database.log.directory)
    size_found = database.base.size
    for record in run:
        _lay_over(database, record)
    if database.base.size < database.page_n * database.page_size:
        raise CorruptStateError(
            f"{database.base.path}: {size_found} bytes, expected {database.page_n * database.page_size}"
        )
    if not database.txid and database.base.size:
        raise CorruptStateError(
            f"{database.directory}: the database file holds {database.base.size} bytes, "
            "and neither state file nor log say what they are"
        )
    verify(database, progress)
    if database.base.size != database.page_n * database.page_size:  # else its time of change would be lost
        database.base.truncate_file(database.page_n * database.page_size, database.txid)
    database.size = database.base.size
    database.note_header()  # the images may have changed the journal mode
    _end_log(database, found, run)
    if run:
        _log.info("%s: %d images after %016x laid over the base", database.name, len(run), database.base_txid)


def _contiguous_run(database: Database, found: FoundLog, live_groups: set[int]) -> list[FoundRecord]:
    """Returns the records after S that count. Verifies headers only; `_lay_over` verifies the images."""
    run: list[FoundRecord] = []
    txid = database.base_txid
    for record in found.records:
        header = record.header
        if header.max_txid <= database.base_txid:
            continue
        if header.min_txid != txid + 1:
            break
        if header.state == RecordState.PREPARED and header.group not in live_groups:
            break
        run.append(record)
        txid = header.max_txid
    for cut, record in enumerate(run):
        if not _image_is_whole(database.disk, record):
            del run[cut:]
            break
    _refuse_damage(found, run[-1].header.max_txid if run else database.base_txid)
    return run


def _refuse_damage(found: FoundLog, last_txid: int) -> None:
    for record in found.records:
        if record.header.max_txid > last_txid and record.header.durable > last_txid:
            raise CorruptStateError(
                f"{record.segment.path}: image {last_txid + 1:016x} is damaged or missing, and image "
                f"{record.header.min_txid:016x} says that it was durable"
            )


def _image_is_whole(disk: Disk, record: FoundRecord) -> bool:
    try:
        for _ in _decode(disk, record):
            pass
    except FormatError as error:
        _log.warning("%s: image %016x: %s", record.segment.path, record.header.min_txid, error)
        return False
    return True


def _decode(disk: Disk, record: FoundRecord) -> Iterable[tuple[LtxDecoder, list[tuple[int, bytes]]]]:
    """Yields the decoder and the next pages of an image; the last pages come when all of it is verified."""
    decoder = LtxDecoder()
    offset, end = record.offset, record.offset + record.header.length
    while offset < end:
        data = disk.read("recovery.image", record.segment.fd, min(FEED_BYTES, end - offset), offset)
        if not data:
            break
        offset += len(data)
        yield decoder, decoder.feed(data)
    if decoder.trailer is None:
        raise FormatError("image is cut short")
    if decoder.trailer.post_apply != record.header.post_apply:
        raise FormatError("the image of another record, which was voided, lies here")


def _lay_over(database: Database, record: FoundRecord) -> None:
    base, header = database.base, record.header
    for decoder, pages in _decode(database.disk, record):
        ltx = decoder.header
        if ltx is None:
            continue
        if ltx.min_txid > 1 and ltx.pre_apply != database.checksum and database.txid == header.min_txid - 1:
            raise CorruptStateError(
                f"{record.segment.path}: image {header.min_txid:016x} follows checksum {ltx.pre_apply:016x}, "
                f"the database has {database.checksum:016x}"
            )
        if base.page_size != ltx.page_size:
            database.learn_page_size(ltx.page_size)
        for pgno, page in pages:
            base.write_page(pgno, page, header.max_txid)
        if decoder.done:
            database.txid, database.checksum = header.max_txid, header.post_apply
            database.page_n, database.timestamp_ms = ltx.commit, ltx.timestamp_ms
            database.group = header.group or database.group


def _end_log(database: Database, found: FoundLog, run: list[FoundRecord]) -> None:
    """Makes the log end behind the run, durably, and hands it over."""
    disk = database.disk
    _mark_decided(disk, run)
    counted: dict[int, FoundRecord] = {}
    for record in found.records:
        if record.header.max_txid <= database.txid:
            counted[record.segment.fd] = record
    kept: list[Segment] = []
    for segment in found.segments:
        last = counted.get(segment.fd)
        if last is None:
            continue
        segment.end, segment.last_txid = last.offset + padded(last.header.length), last.header.max_txid
        if kept and kept[-1].last_txid + 1 != segment.first_txid:
            kept.clear()  # the removal of an older segment came back: followers must not find a gap
        kept.append(segment)
    if kept and kept[-1].last_txid != database.txid:
        kept.clear()  # likewise, and the base holds what followed
    dropped = [segment for segment in found.segments if segment not in kept]
    for segment in dropped:
        disk.unlink("recovery.drop_segment", segment.path)
        disk.close("recovery.drop_close", segment.fd)
    if dropped:
        disk.sync_directory("recovery.drop_directory", database.log.directory)
    if kept:
        _erase_behind(disk, kept[-1])
    database.log.adopt(kept, database.txid)


def _mark_decided(disk: Disk, run: list[FoundRecord]) -> None:
    """Writes down that prepared images count: the log of the database that says so may be gone at the next start."""
    decided = [record for record in run if record.header.state == RecordState.PREPARED]
    for record in decided:
        offset = record.offset - RECORD_HEADER_SIZE + STATE_OFFSET
        disk.write("recovery.mark_live", record.segment.fd, bytes([RecordState.LIVE]), offset)
    for fd in {record.segment.fd for record in decided}:
        disk.sync("recovery.mark_live_sync", fd)


def _erase_behind(disk: Disk, segment: Segment) -> None:
    """Fills what lies behind the end of the log with zeros, durably."""
    erased = False
    for offset in range(segment.end, segment.capacity, WRITE_RUN_BYTES):
        data = disk.read("recovery.look_behind", segment.fd, min(WRITE_RUN_BYTES, segment.capacity - offset), offset)
        if data != bytes(len(data)):
            disk.write("recovery.erase", segment.fd, bytes(len(data)), offset)
            erased = True
    if erased:
        disk.sync("recovery.erase_sync", segment.fd)


def verify(database: Database, progress: Progress) -> None:
    """Reads every page of the base, fills the page checksums, and compares their XOR with the position's.

    Raises:
        CorruptStateError: they differ.
    """
    page_size, total = database.page_size, database.page_n * database.page_size
    sums: array[int] = array("Q")
    step = WRITE_RUN_BYTES - WRITE_RUN_BYTES % page_size if page_size else 1
    for offset in range(0, total, step):
        size = min(step, total - offset)
        data = database.disk.read("recovery.verify", database.base.fd, size, offset)
        sums.extend(page_checksums(data, page_size, offset // page_size + 1))
        progress(database.name, offset + size, total)
    checksum = database_checksum(sums) | CHECKSUM_FLAG
    if checksum != database.checksum:
        raise CorruptStateError(
            f"{database.base.path}: the pages give checksum {checksum:016x}, "
            f"transaction {database.txid:016x} has {database.checksum:016x}"
        )
    database.sums = sums


def read_found_log(disk: Disk, directory: Path) -> FoundLog:
    """Returns the log of a database directory, making its directory if it is new."""
    log_dir = directory / LOG_NAME
    disk.make_directory("recovery.log_directory", log_dir)
    for left_over in log_dir.glob(SPARE_PREFIX + "*"):
        disk.unlink("recovery.spare", left_over)
    return scan_log(disk, log_dir)

"""Images from the primary on their way into a replica's log.

The sender has verified them whole; here it is decided whether they follow. They are in the log before
their pages are applied through the mount; the position moves when the pages are there.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from litefs.errors import PositionMismatchError
from litefs.formats.checksum import page_checksum
from litefs.formats.ltx import HEADER_SIZE, TRAILER_SIZE, LtxHeader
from litefs.formats.ltx_decoder import FEED_BYTES, LtxDecoder
from litefs.storage.database import Database
from litefs.storage.expected import ExpectedImage
from litefs.storage.log import LogRecord
from litefs.storage.steps import Steps

COMPARED_PAGES_MAX = 1 << 16
"""8 MB of checksums. A larger image that changes nothing is found out by what follows it, and costs a snapshot."""


def append_image(database: Database, image: bytes) -> int:
    """Puts an image into the log and expects its pages. Returns its txid.

    Raises:
        PositionMismatchError: it does not follow what is in the log.
        FormatError: its header is none.
        OSError: the log cannot take it.
    """
    header = LtxHeader.decode(image[:HEADER_SIZE])
    post_apply = int.from_bytes(image[-TRAILER_SIZE : -TRAILER_SIZE + 8], "big")
    _check_follows(database, header)
    record = database.log.append(image, header.min_txid, header.max_txid, post_apply)
    pieces = (image[at : at + FEED_BYTES] for at in range(0, len(image), FEED_BYTES))
    sums = _sums_of(pieces) if post_apply == header.pre_apply else None
    return _expect(database, header, post_apply, record, sums)


def append_spooled(database: Database, path: Path) -> Steps[int]:
    """The same for an image that lies in a file, which stays. Others run meanwhile."""
    disk = database.disk
    fd = disk.open("spool.open", path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        header = LtxHeader.decode(disk.read("spool.header", fd, HEADER_SIZE, 0))
        trailer = disk.read("spool.trailer", fd, TRAILER_SIZE, size - TRAILER_SIZE)
        post_apply = int.from_bytes(trailer[:8], "big")
        _check_follows(database, header)
        yield from database.log.make_room(size)
        stream = database.log.begin_stream(header.min_txid, header.max_txid, size)
        try:
            yield lambda: stream.copy_from(fd, size)
            record = stream.finish(post_apply)
        finally:
            stream.give_up()
        sums = None
        if post_apply == header.pre_apply:
            pieces = (disk.read("spool.compare", fd, FEED_BYTES, at) for at in range(0, size, FEED_BYTES))
            sums = yield lambda: _sums_of(pieces)
    finally:
        disk.close("spool.close", fd)
    return _expect(database, header, post_apply, record, sums)


def _check_follows(database: Database, header: LtxHeader) -> None:
    last = database.expected[-1] if database.expected else None
    txid, checksum = (last.txid, last.post_apply) if last is not None else (database.txid, database.checksum)
    if header.min_txid != txid + 1 or (txid and header.pre_apply != checksum):
        raise PositionMismatchError(
            f"{database.name}: image {header.min_txid:016x} after checksum {header.pre_apply:016x} "
            f"does not follow {txid:016x}/{checksum:016x}"
        )
    page_n = last.commit if last is not None else database.page_n  # 0 behind a drop that is still to be applied
    if page_n and header.page_size != database.page_size:
        raise PositionMismatchError(
            f"{database.name}: image {header.min_txid:016x} has pages of {header.page_size} bytes, "
            f"the database has {database.page_size}"
        )


def _sums_of(pieces: Iterable[bytes]) -> list[tuple[int, int]] | None:
    """Returns (pgno, page checksum) of all pages of an image; None if there are too many.

    Equal checksums before and after an image do not mean that nothing changes: the XOR of page checksums is linear, so
    the same difference in an even number of pages, at the same offset of each, cancels out.
    """
    decoder = LtxDecoder()
    sums: list[tuple[int, int]] = []
    for piece in pieces:
        sums += [(pgno, page_checksum(pgno, page)) for pgno, page in decoder.feed(piece)]
        if len(sums) > COMPARED_PAGES_MAX:
            return None
    return sums


def _expect(
    database: Database, header: LtxHeader, post_apply: int, record: LogRecord, sums: list[tuple[int, int]] | None
) -> int:
    if not database.page_n and not database.expected:
        database.learn_page_size(header.page_size)
    database.expect(
        ExpectedImage(
            txid=header.max_txid,
            pre_apply=header.pre_apply,
            post_apply=post_apply,
            commit=header.commit,
            timestamp_ms=header.timestamp_ms,
            record=record,
            sums=sums,
        )
    )
    return header.max_txid

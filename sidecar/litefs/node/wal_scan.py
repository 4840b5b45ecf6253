"""Reads a WAL file forward from any frame, to find what is committed in it.

Strategy: which frames are valid is for `read_frames` to say; a transaction counts if its commit frame does. The running
checksum at the start comes from the WAL header or from the wal-index, so that a long WAL whose beginning is known need
not be read again.

Source: SQLite 3.40, wal.c (walIndexRecover, walDecodeFrame).
"""

import os
from dataclasses import dataclass

from litefs.errors import FormatError, NeedMoreData
from litefs.formats.wal import WAL_HEADER_SIZE, WalHeader, read_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a scan found.

    Attributes:
        pgnos: pages of the frames from the first scanned to the last committed one; empty if none is committed.
        page_n: size of the database in pages afterwards.
        checksum: running checksum of the last committed frame, or of what was before the scan.
    """

    pgnos: list[int]
    page_n: int
    checksum: tuple[int, int]


def read_header(fd: int) -> WalHeader | None:
    """Returns the header of a WAL file, or None if SQLite would ignore the file."""
    try:
        return WalHeader.decode(os.pread(fd, WAL_HEADER_SIZE, 0))
    except (FormatError, NeedMoreData):
        return None


def scan(fd: int, wal: WalHeader, first_frame: int = 1, checksum: tuple[int, int] | None = None) -> Committed:
    """Finds what is committed from `first_frame` on.

    Args:
        fd: the WAL.
        wal: its header.
        first_frame: 1-based.
        checksum: running checksum of the frame before; of the header if None.
    """
    pgnos: list[int] = []
    committed_n, page_n, committed = 0, 0, wal.checksum if checksum is None else checksum
    for frame in read_frames(lambda offset, size: os.pread(fd, size, offset), wal, first_frame, checksum):
        pgnos.append(frame.pgno)
        if frame.commit:
            committed_n, page_n, committed = len(pgnos), frame.commit, frame.checksum
    return Committed(pgnos=pgnos[:committed_n], page_n=page_n, checksum=committed)

"""Reads a WAL file forward from any frame, to find what is committed in it.

Strategy: a frame counts if its salts and its running checksum match; a transaction counts if its commit frame does.
The running checksum at the start comes from the WAL header or from the wal-index, so that a long WAL whose
beginning is known need not be read again.

Source: SQLite 3.40, wal.c (walIndexRecover, walDecodeFrame).
"""

import os
from dataclasses import dataclass

from litefs.errors import FormatError, NeedMoreData
from litefs.formats.wal import FRAME_HEADER_SIZE, WAL_HEADER_SIZE, FrameHeader, WalHeader, wal_checksum


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


def frame_offset(frame: int, page_size: int) -> int:
    """Returns where in the file the header of 1-based `frame` begins."""
    return WAL_HEADER_SIZE + (frame - 1) * (FRAME_HEADER_SIZE + page_size)


def scan(fd: int, wal: WalHeader, first_frame: int = 1, checksum: tuple[int, int] | None = None) -> Committed:
    """Reads valid frames from `first_frame` on.

    Args:
        fd: the WAL.
        wal: its header.
        first_frame: 1-based.
        checksum: running checksum of the frame before; of the header if None.
    """
    running = wal.checksum if checksum is None else checksum
    size = FRAME_HEADER_SIZE + wal.page_size
    offset = frame_offset(first_frame, wal.page_size)
    pgnos: list[int] = []
    committed_n, page_n, committed = 0, 0, running
    while len(data := os.pread(fd, size, offset)) == size:
        header = FrameHeader.decode(data)
        if (header.salt1, header.salt2) != (wal.salt1, wal.salt2) or header.pgno == 0:
            break
        running = wal_checksum(data[:8], *running, big_endian=wal.big_endian)
        running = wal_checksum(memoryview(data)[FRAME_HEADER_SIZE:], *running, big_endian=wal.big_endian)
        if running != header.checksum:
            break
        pgnos.append(header.pgno)
        offset += size
        if header.commit:
            committed_n, page_n, committed = len(pgnos), header.commit, running
    return Committed(pgnos=pgnos[:committed_n], page_n=page_n, checksum=committed)

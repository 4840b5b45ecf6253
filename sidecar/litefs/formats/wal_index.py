"""The wal-index: the layout of the `-shm` file and the arithmetic of its hash tables.

Everything is in the machine's byte order. Region 0 begins with:

    offset size field
    0      48   header, first copy (see `WalIndexHeader`)
    48     48   header, second copy: written first, so that equal copies are a whole header
    96     4    nBackfill: frames that a checkpoint has copied into the database
    100    20   aReadMark[5]: the mxFrame at which readers hold; mark 0 is always 0
    120    8    lock bytes, never data: WRITE, CKPT, RECOVER, READ0 … READ4
    128    4    nBackfillAttempted (byte 128 is also the lock byte DMS)
    132    4    unused
    136    …    aPgno, see below

A region is 32768 bytes: aPgno[4096] u32, the pages of its frames, then aHash[8192] u16, slots that hold the 1-based
index of a frame within the region. Region 0 gives the first 34 aPgno to the header, so it indexes 4062 frames.

Header, 48 bytes:

    offset size field
    0      4    version 3007000
    4      4    unused
    8      4    change: one higher per commit
    12     1    is_init: 1
    13     1    big_endian checksums in the WAL: 1
    14     2    page size, 1 means 65536
    16     4    mx_frame: number of valid frames
    20     4    page_n: size of the database in pages
    24     8    checksum of the last frame, two words
    32     8    salts, the bytes as they are in the WAL header
    40     8    checksum over the first 40 bytes, two words, machine byte order

Source: sqlite.org/walformat.html, section 2; wal.c of SQLite 3.40.
"""

import struct
import sys
from dataclasses import dataclass

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.wal import WAL_VERSION, wal_checksum

REGION_SIZE = 32768
INDEX_HEADER_SIZE = 48
BACKFILL_OFFSET = 96
READ_MARKS_OFFSET = 100
READ_MARK_N = 5
READ_MARK_UNUSED = 0xFFFFFFFF
LOCK_WRITE = 120
LOCK_CHECKPOINT = 121
LOCK_READ0 = 123
LOCK_DMS = 128
BACKFILL_ATTEMPTED_OFFSET = 128
PGNO_OFFSET = 136
"""Where the page numbers of region 0 begin; in other regions they begin at 0."""
HASH_OFFSET = 16384
"""Where the hash slots of every region begin."""
HASH_SLOT_N = 8192
REGION_FRAME_N = 4096
REGION0_FRAME_N = REGION_FRAME_N - PGNO_OFFSET // 4

_HASH_FACTOR = 383
_BIG_ENDIAN_MACHINE = sys.byteorder == "big"
_HEADER = struct.Struct("=IIIBBHII2I8s")
_CHECKSUM = struct.Struct("=2I")
assert _HEADER.size + _CHECKSUM.size == INDEX_HEADER_SIZE
assert REGION0_FRAME_N == 4062


@dataclass(frozen=True, slots=True, kw_only=True)
class WalIndexHeader:
    """One copy of the header of a wal-index.

    Attributes:
        change: one higher per commit, wraps at 2^32.
        big_endian: byte order of the checksums in the WAL.
        page_size: in bytes.
        mx_frame: number of valid frames in the WAL.
        page_n: size of the database in pages.
        frame_checksum: the running checksum of frame `mx_frame`.
        salts: the 8 bytes at offset 16 of the WAL header, verbatim.
    """

    change: int
    big_endian: bool
    page_size: int
    mx_frame: int
    page_n: int
    frame_checksum: tuple[int, int]
    salts: bytes

    def encode(self) -> bytes:
        """Returns the 48 bytes, with their checksum."""
        body = _HEADER.pack(
            WAL_VERSION,
            0,
            self.change,
            1,
            self.big_endian,
            (self.page_size & 0xFF00) | (self.page_size >> 16),
            self.mx_frame,
            self.page_n,
            *self.frame_checksum,
            self.salts,
        )
        return body + _CHECKSUM.pack(*wal_checksum(body, big_endian=_BIG_ENDIAN_MACHINE))

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "WalIndexHeader":
        """Reads one copy of the header from the first 48 bytes of `data`.

        Raises:
            NeedMoreData: fewer than 48 bytes.
            FormatError: not initialised, or another version.
            ChecksumError: a torn header: recovery is due, or a writer is at work.
        """
        if len(data) < INDEX_HEADER_SIZE:
            raise NeedMoreData(f"wal-index header: {len(data)} of {INDEX_HEADER_SIZE} bytes")
        version, _, change, is_init, big_endian, size, mx_frame, page_n, sum0, sum1, salts = _HEADER.unpack_from(data)
        if not is_init:
            raise FormatError("wal-index header: not initialised")
        if wal_checksum(data[: _HEADER.size], big_endian=_BIG_ENDIAN_MACHINE) != _CHECKSUM.unpack_from(
            data, _HEADER.size
        ):
            raise ChecksumError("wal-index header: wrong checksum")
        if version != WAL_VERSION:
            raise FormatError(f"wal-index header: version {version}")
        return cls(
            change=change,
            big_endian=bool(big_endian),
            page_size=(size & 0xFE00) | ((size & 1) << 16),
            mx_frame=mx_frame,
            page_n=page_n,
            frame_checksum=(sum0, sum1),
            salts=salts,
        )


def frame_region(frame: int) -> tuple[int, int]:
    """Returns where a frame is indexed.

    Args:
        frame: 1-based number of the frame in the WAL.

    Returns:
        (region, index): region 0-based, index 1-based within the region, which is what a hash slot holds.
    """
    if frame <= REGION0_FRAME_N:
        return 0, frame
    region, index = divmod(frame - REGION0_FRAME_N - 1, REGION_FRAME_N)
    return region + 1, index + 1


def region_first_frame(region: int) -> int:
    """Returns the number of the first frame that a region indexes, 1-based."""
    return 1 if region == 0 else REGION0_FRAME_N + (region - 1) * REGION_FRAME_N + 1


def region_frame_n(region: int) -> int:
    """Returns how many frames a region indexes."""
    return REGION_FRAME_N if region else REGION0_FRAME_N


def hash_slot(pgno: int) -> int:
    """Returns the slot at which the search for a page begins; the next one is (slot + 1) % HASH_SLOT_N."""
    return pgno * _HASH_FACTOR & (HASH_SLOT_N - 1)

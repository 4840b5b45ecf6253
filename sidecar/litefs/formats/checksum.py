"""Checksums of pages, databases and files: CRC-64/GO-ISO, and XOR over pages.

    page      2^63 | crc64(u32be(pgno) ‖ page)
    database  2^63 | XOR of the page checksums; the lock page counts as 0; no pages: 2^63

The XOR makes the checksum of a database incremental: new = 2^63 | (old ^ old page ^ new page). Bit 63 tells a
checksum from "none" (0).

Strategy: all work on bytes is one call of a compiled CRC; the loops here only cut the buffer into pages.

Source: superfly/ltx v0.3.14; CRC-64/GO-ISO (reflected polynomial 0xD800000000000000, init and xorout all ones).
"""

from collections.abc import Iterable
from functools import reduce
from operator import xor
from struct import Struct

from fastcrc import crc64 as _fastcrc

from litefs.formats.position import Checksum, Pgno

CHECKSUM_FLAG = 1 << 63
"""Set in every checksum that is present."""

EMPTY_DATABASE_CHECKSUM = Checksum(CHECKSUM_FLAG)
"""The checksum of a database without pages."""

PENDING_BYTE = 0x40000000
"""Offset of the byte at which SQLite's locks begin; the page that holds it, the lock page, is never used."""

_pack_pgno = Struct(">I").pack
_crc64 = _fastcrc.go_iso


def crc64(data: bytes | bytearray | memoryview, previous: int = 0) -> int:
    """Returns the CRC-64/GO-ISO of `data`, continued from `previous`, the CRC of what came before."""
    return int(_crc64(data, previous))


def page_checksum(pgno: int, data: bytes | bytearray | memoryview) -> Checksum:
    """Returns the checksum of one page (whole page, with bit 63 set). Knows no lock page: the caller leaves it out."""
    return Checksum(CHECKSUM_FLAG | _crc64(data, _crc64(_pack_pgno(pgno))))


def lock_pgno(page_size: int) -> Pgno:
    """Returns the number of the page that holds SQLite's lock bytes: it is in no image and counts as 0."""
    return Pgno(PENDING_BYTE // page_size + 1)


def page_checksums(data: bytes | bytearray | memoryview, page_size: int, first_pgno: int) -> list[int]:
    """Returns the checksums of the consecutive pages in `data`, 0 for the lock page.

    Args:
        data: whole pages, the first of which is page `first_pgno`. A rest shorter than a page is a programming error.
        page_size: in bytes.
        first_pgno: 1-based.
    """
    assert len(data) % page_size == 0, "a buffer of whole pages"
    crc, pack, flag, view = _crc64, _pack_pgno, CHECKSUM_FLAG, memoryview(data)
    offsets = range(0, len(data), page_size)
    sums = [
        flag | crc(view[offset : offset + page_size], crc(pack(pgno)))
        for pgno, offset in enumerate(offsets, first_pgno)
    ]
    lock_index = PENDING_BYTE // page_size + 1 - first_pgno
    if 0 <= lock_index < len(sums):
        sums[lock_index] = 0
    return sums


def database_checksum(page_sums: Iterable[int]) -> Checksum:
    """Returns the checksum of a database from those of all its pages (0 for the lock page)."""
    return Checksum(CHECKSUM_FLAG | reduce(xor, page_sums, 0))

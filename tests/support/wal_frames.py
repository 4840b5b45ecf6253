"""Frames of a WAL as SQLite writes them; for tests that play its part."""

import struct

from litefs.formats.wal import WalHeader, wal_checksum


def encode_frame_header(
    wal: WalHeader, previous: tuple[int, int], pgno: int, commit: int, page: bytes | bytearray | memoryview
) -> tuple[bytes, tuple[int, int]]:
    """Encodes the 24 bytes that go before a page.

    Args:
        wal: the header of the WAL that the frame is appended to.
        previous: the running checksum before it: of the last frame, or `wal.checksum`.
        pgno: number of the page.
        commit: size of the database in pages if the frame ends a transaction, else 0.
        page: the whole page.

    Returns:
        The header and the running checksum through this frame.
    """
    assert len(page) == wal.page_size, "a frame holds a whole page"
    head = struct.pack(">2I", pgno, commit)
    s0, s1 = wal_checksum(head, *previous, big_endian=wal.big_endian)
    s0, s1 = wal_checksum(page, s0, s1, big_endian=wal.big_endian)
    return head + struct.pack(">4I", wal.salt1, wal.salt2, s0, s1), (s0, s1)

"""The checksum of the WAL and the wal-index: two words that chase each other through the data.

    for each pair of 32-bit words (a, b):  s0 += a + s1;  s1 += b + s0   (mod 2^32)

Source: sqlite.org/fileformat2.html, section 4.2.
"""

import struct


def wal_checksum(
    data: bytes | bytearray | memoryview, s0: int = 0, s1: int = 0, *, big_endian: bool
) -> tuple[int, int]:
    """Returns the checksum of `data`, continued from (s0, s1).

    Args:
        data: a multiple of 8 bytes.
        s0: first word of the checksum before.
        s1: second word of the checksum before.
        big_endian: how the words of `data` are read.
    """
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data)
    for a, b in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + a + s1) & 0xFFFFFFFF
        s1 = (s1 + b + s0) & 0xFFFFFFFF
    return s0, s1

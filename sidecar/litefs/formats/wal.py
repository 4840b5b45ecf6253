"""The write-ahead log: its header, its frames, and the checksum that runs through them.

WAL header, 32 bytes, big-endian:

    offset size field
    0      4    magic 0x377f0682, or …83 if checksums read words as big-endian
    4      4    version 3007000
    8      4    page_size
    12     4    checkpoint_seq
    16     4    salt1: one higher per restart
    20     4    salt2: random per restart
    24     8    checksum over bytes 0–23, two words

Frame header, 24 bytes, big-endian, then the page:

    offset size field
    0      4    pgno
    4      4    commit: size of the database in pages after the transaction; 0 if the transaction goes on
    8      8    salts of the WAL header
    16     8    checksum over bytes 0–7 and the page, continued from the frame before (first: the WAL header)

A frame counts if its salts and its checksum match and all before it do; a transaction counts if its commit frame does.

The checksum is two words that chase each other through the data:

    for each pair of 32-bit words (a, b):  s0 += a + s1;  s1 += b + s0   (mod 2^32)

Strategy: a loop over the words of a 4 KiB page takes 60 µs in Python, so a page is folded instead. One step is
linear: it adds a vector for (a, b) to M·(s0, s1), M = [[1, 1], [1, 2]], whose powers are Fibonacci numbers:
M^k = [[F(2k-1), F(2k)], [F(2k), F(2k+1)]]. Hence checksum(2h pairs) = M^h · checksum(first h) + checksum(last h).
All pairs of a page sit in 64-bit lanes of two Python integers, one for s0 and one for s1; each round multiplies the
earlier half of the lanes by M^h and adds it to the later half: nine rounds for 4 KiB, 16 µs. A product of two 32-bit
words fits its lane exactly and is cut to 32 bits before anything is added to it.

Why not numpy: 4 µs instead of 16, for about 25 MiB of memory per process, a quarter of what a whole node may use.

Source: sqlite.org/fileformat2.html, section 4; wal.c of SQLite 3.40.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.sqlite_header import PAGE_SIZES

WAL_HEADER_SIZE = 32
FRAME_HEADER_SIZE = 24
WAL_MAGIC = 0x377F0682
WAL_VERSION = 3007000
_M32 = 0xFFFFFFFF
_LOOP_PAIRS_MAX = 8
"""Up to here the loop is faster than the fold."""

_WAL_HEADER = struct.Struct(">6I")
_FRAME_HEADER = struct.Struct(">6I")
_PAIR = struct.Struct(">2I")
assert _WAL_HEADER.size + _PAIR.size == WAL_HEADER_SIZE
assert _FRAME_HEADER.size == FRAME_HEADER_SIZE


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
    pair_n, rest = divmod(len(data), 8)
    assert not rest, "the checksum runs over pairs of words"
    if pair_n <= _LOOP_PAIRS_MAX:
        return _loop(data, s0, s1, big_endian)
    if pair_n & (pair_n - 1) == 0:
        return _fold(data, s0, s1, big_endian)
    # Not a page: as much as can be folded, and then what remains.
    size = 8 << (pair_n.bit_length() - 1)
    view = memoryview(data)
    s0, s1 = _fold(view[:size], s0, s1, big_endian)
    return wal_checksum(view[size:], s0, s1, big_endian=big_endian)


def _loop(data: bytes | bytearray | memoryview, s0: int, s1: int, big_endian: bool) -> tuple[int, int]:
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data)
    for a, b in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + a + s1) & _M32
        s1 = (s1 + b + s0) & _M32
    return s0, s1


def _fold(data: bytes | bytearray | memoryview, s0: int, s1: int, big_endian: bool) -> tuple[int, int]:
    """Checksums 2^n pairs. Big-endian reading reverses the lanes, so there the earlier ones are the high ones."""
    pair_n = len(data) // 8
    words, rounds = _plan(pair_n)
    if big_endian:
        lanes = int.from_bytes(data, "big")
        first_lane = 64 * (pair_n - 1)
        u = lanes >> 32 & words
        v = u + (lanes & words)
    else:
        lanes = int.from_bytes(data, "little")
        first_lane = 0
        u = lanes & words
        v = u + (lanes >> 32 & words)
    # Lane (a, b) is the checksum (a, a + b) of its pair alone; the first one also carries M · (s0, s1).
    u += (s0 + s1) << first_lane
    v += (s0 + 2 * s1) << first_lane
    for shift, low_half, words, f0, f1, f2 in rounds:
        if big_endian:
            early_u, early_v, u, v = u >> shift & words, v >> shift & words, u & low_half, v & low_half
        else:
            early_u, early_v, u, v = u & words, v & words, u >> shift, v >> shift
        u += (early_u * f0 & words) + (early_v * f1 & words)
        v += (early_u * f1 & words) + (early_v * f2 & words)
    return u & _M32, v & _M32


@lru_cache(maxsize=16)
def _plan(pair_n: int) -> tuple[int, list[tuple[int, int, int, int, int, int]]]:
    """Returns the mask of the low words of all lanes and, per round, what `_fold` needs.

    A round is (bits in half the lanes, mask of these bits, mask of the low words in them, F(2h-1), F(2h), F(2h+1)).
    """
    rounds = []
    h = pair_n // 2
    while h:
        f0, f1 = _fibonacci_pair(2 * h - 1)
        rounds.append((64 * h, (1 << 64 * h) - 1, _low_words(h), f0, f1, (f0 + f1) & _M32))
        h //= 2
    return _low_words(pair_n), rounds


def _low_words(lane_n: int) -> int:
    return int.from_bytes(b"\xff\xff\xff\xff\x00\x00\x00\x00" * lane_n, "little")


def _fibonacci_pair(n: int) -> tuple[int, int]:
    """Returns F(n) and F(n+1) mod 2^32."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, (a + b) & _M32
    return a, b


@dataclass(frozen=True, slots=True, kw_only=True)
class WalHeader:
    """The header of a WAL: one generation of frames.

    Attributes:
        big_endian: how checksums read words.
        page_size: in bytes.
        checkpoint_seq: number of restarts so far.
        salt1: in every frame of this generation.
        salt2: in every frame of this generation.
    """

    big_endian: bool
    page_size: int
    checkpoint_seq: int
    salt1: int
    salt2: int

    def __post_init__(self) -> None:
        """Checks the page size."""
        if self.page_size not in PAGE_SIZES:
            raise FormatError(f"WAL header: page size {self.page_size}")

    @property
    def checksum(self) -> tuple[int, int]:
        """The checksum of the header, from which that of the first frame goes on."""
        return wal_checksum(self._body(), big_endian=self.big_endian)

    def _body(self) -> bytes:
        magic = WAL_MAGIC | self.big_endian
        return _WAL_HEADER.pack(magic, WAL_VERSION, self.page_size, self.checkpoint_seq, self.salt1, self.salt2)

    def encode(self) -> bytes:
        """Returns the 32 bytes, with their checksum."""
        body = self._body()
        return body + _PAIR.pack(*wal_checksum(body, big_endian=self.big_endian))

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "WalHeader":
        """Reads the header from the first 32 bytes of a WAL; more is ignored.

        Raises:
            NeedMoreData: fewer than 32 bytes.
            FormatError: wrong magic, page size or version.
            ChecksumError: the checksum does not hold.
        """
        if len(data) < WAL_HEADER_SIZE:
            raise NeedMoreData(f"WAL header: {len(data)} of {WAL_HEADER_SIZE} bytes")
        magic, version, page_size, checkpoint_seq, salt1, salt2 = _WAL_HEADER.unpack_from(data)
        if magic & ~1 != WAL_MAGIC:
            raise FormatError(f"no WAL: magic {magic:08x}")
        header = cls(
            big_endian=bool(magic & 1), page_size=page_size, checkpoint_seq=checkpoint_seq, salt1=salt1, salt2=salt2
        )
        found = _PAIR.unpack_from(data, _WAL_HEADER.size)
        if wal_checksum(data[: _WAL_HEADER.size], big_endian=header.big_endian) != found:
            raise ChecksumError("WAL header: wrong checksum")
        if version != WAL_VERSION:
            raise FormatError(f"WAL header: version {version}")
        return header


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """The header of a frame, unverified: its checksum covers the page too.

    Attributes:
        pgno: the page in the frame.
        commit: size of the database in pages after the transaction; 0 if it goes on.
        salt1: of the generation that the frame belongs to.
        salt2: of the generation that the frame belongs to.
        checksum: the running checksum through this frame.
    """

    pgno: int
    commit: int
    salt1: int
    salt2: int
    checksum: tuple[int, int]

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "FrameHeader":
        """Reads a frame header from the first 24 bytes of `data`; more is ignored.

        Raises:
            NeedMoreData: fewer than 24 bytes.
        """
        if len(data) < FRAME_HEADER_SIZE:
            raise NeedMoreData(f"WAL frame header: {len(data)} of {FRAME_HEADER_SIZE} bytes")
        pgno, commit, salt1, salt2, sum0, sum1 = _FRAME_HEADER.unpack_from(data)
        return cls(pgno=pgno, commit=commit, salt1=salt1, salt2=salt2, checksum=(sum0, sum1))


@dataclass(frozen=True, slots=True, kw_only=True)
class WalFrame:
    """A verified frame.

    Attributes:
        frame: its 1-based number in the WAL.
        pgno: the page it holds.
        commit: size of the database in pages after the transaction; 0 if it goes on.
        page: the bytes of the page.
        checksum: the running checksum through this frame.
    """

    frame: int
    pgno: int
    commit: int
    page: bytes
    checksum: tuple[int, int]


def frame_offset(frame: int, page_size: int) -> int:
    """Returns where in the file the header of 1-based `frame` begins."""
    return WAL_HEADER_SIZE + (frame - 1) * (FRAME_HEADER_SIZE + page_size)


def read_frames(
    read_at: Callable[[int, int], bytes],
    wal: WalHeader,
    first_frame: int = 1,
    checksum: tuple[int, int] | None = None,
) -> Iterator[WalFrame]:
    """Yields the valid frames of a WAL, committed or not, up to the first that does not belong or does not verify.

    Args:
        read_at: (offset, size) → bytes of the WAL, fewer only at its end.
        wal: its header.
        first_frame: 1-based.
        checksum: running checksum of the frame before; of the header if None.
    """
    frame, running = first_frame, wal.checksum if checksum is None else checksum
    size = FRAME_HEADER_SIZE + wal.page_size
    while len(data := read_at(frame_offset(frame, wal.page_size), size)) == size:
        header, page = FrameHeader.decode(data), data[FRAME_HEADER_SIZE:]
        if (header.salt1, header.salt2) != (wal.salt1, wal.salt2) or header.pgno == 0:
            return
        running = wal_checksum(data[:8], *running, big_endian=wal.big_endian)
        running = wal_checksum(page, *running, big_endian=wal.big_endian)
        if running != header.checksum:
            return
        yield WalFrame(frame=frame, pgno=header.pgno, commit=header.commit, page=page, checksum=running)
        frame += 1

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

Source: sqlite.org/fileformat2.html, section 4; wal.c of SQLite 3.40.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.wal_checksum import wal_checksum

__all__ = [
    "FRAME_HEADER_SIZE",
    "WAL_HEADER_SIZE",
    "WAL_MAGIC",
    "WAL_VERSION",
    "FrameHeader",
    "WalFrame",
    "WalHeader",
    "WalReader",
    "encode_frame_header",
    "wal_checksum",
]

WAL_HEADER_SIZE = 32
FRAME_HEADER_SIZE = 24
WAL_MAGIC = 0x377F0682
WAL_VERSION = 3007000
_PAGE_SIZES = frozenset(1 << n for n in range(9, 17))

_WAL_HEADER = struct.Struct(">6I")
_FRAME_HEADER = struct.Struct(">6I")
_PAIR = struct.Struct(">2I")
_SALTS_AND_CHECKSUM = struct.Struct(">4I")
assert _WAL_HEADER.size + _PAIR.size == WAL_HEADER_SIZE
assert _FRAME_HEADER.size == FRAME_HEADER_SIZE


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
        if self.page_size not in _PAGE_SIZES:
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
            FormatError: wrong magic, version or page size.
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
    head = _PAIR.pack(pgno, commit)
    s0, s1 = wal_checksum(head, *previous, big_endian=wal.big_endian)
    s0, s1 = wal_checksum(page, s0, s1, big_endian=wal.big_endian)
    return head + _SALTS_AND_CHECKSUM.pack(wal.salt1, wal.salt2, s0, s1), (s0, s1)


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


class WalReader:
    """Reads the frames of a WAL that SQLite would recover, one at a time.

    What SQLite ignores, the reader ignores: a WAL that is empty, short or has a wrong magic, page size or header
    checksum has no header and no frames; the frames end at the first that does not belong or does not verify. The
    caller ignores what follows the last commit frame.
    """

    def __init__(self, read_at: Callable[[int, int], bytes]) -> None:
        """Reads the header.

        Args:
            read_at: (offset, size) → bytes of the WAL, fewer only at its end.

        Raises:
            FormatError: a valid header of an unknown version, which SQLite refuses to open.
        """
        self._read_at = read_at
        self._header = _read_header(read_at(0, WAL_HEADER_SIZE))

    @property
    def header(self) -> WalHeader | None:
        """The header, or None if SQLite would ignore the WAL."""
        return self._header

    def frames(self) -> Iterator[WalFrame]:
        """Yields the valid frames from the first, committed or not."""
        wal = self._header
        if wal is None:
            return
        size, checksum, frame = FRAME_HEADER_SIZE + wal.page_size, wal.checksum, 0
        while True:
            data = self._read_at(WAL_HEADER_SIZE + frame * size, size)
            if len(data) < size:
                return
            header = FrameHeader.decode(data)
            if (header.salt1, header.salt2) != (wal.salt1, wal.salt2) or header.pgno == 0:
                return
            page = data[FRAME_HEADER_SIZE:]
            checksum = wal_checksum(data[:8], *checksum, big_endian=wal.big_endian)
            checksum = wal_checksum(page, *checksum, big_endian=wal.big_endian)
            if checksum != header.checksum:
                return
            frame += 1
            yield WalFrame(frame=frame, pgno=header.pgno, commit=header.commit, page=page, checksum=checksum)


def _read_header(data: bytes) -> WalHeader | None:
    try:
        return WalHeader.decode(data)
    except (NeedMoreData, ChecksumError):
        return None
    except FormatError:
        if _WAL_HEADER.unpack_from(data)[1] != WAL_VERSION and is_wal_header_intact(data):
            raise
        return None


def is_wal_header_intact(data: bytes) -> bool:
    """Returns whether 32 bytes have the magic of a WAL and a checksum that holds, whatever their version."""
    magic, _, page_size, *_ = _WAL_HEADER.unpack_from(data)
    if magic & ~1 != WAL_MAGIC or page_size not in _PAGE_SIZES:
        return False
    return wal_checksum(data[: _WAL_HEADER.size], big_endian=bool(magic & 1)) == _PAIR.unpack_from(data, 24)

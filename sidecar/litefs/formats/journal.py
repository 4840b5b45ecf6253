"""The rollback journal: what a transaction overwrote, as SQLite writes it and plays it back.

Segment header, big-endian, padded to the sector size; every segment begins at a multiple of it:

    offset size field
    0      8    magic d9 d5 05 f9 20 a1 63 d7
    8      4    record_n; 0xffffffff: as many as the file holds (synchronous=OFF)
    12     4    nonce of the record checksums
    16     4    page_n: size of the database in pages before the transaction
    20     4    sector_size
    24     4    page_size

Record: u32 pgno | page | u32 checksum = nonce + page[page_size - 200] + page[page_size - 400] + …

Until the journal is synced its magic and record_n, 12 bytes, are zero: it is active, and a crash now rolls nothing
back. A commit ends the journal by removing it, cutting it to nothing, or zeroing its first 28 bytes.

A transaction over several databases ends each journal with the name of its super-journal:

    u32 pgno of the lock page | name | u32 length | u32 sum of the name's signed bytes | magic

Source: sqlite.org/fileformat2.html, section 3; pager.c of SQLite 3.40.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from litefs.errors import FormatError, NeedMoreData
from litefs.formats.checksum import lock_pgno
from litefs.formats.sqlite_header import PAGE_SIZES

JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
JOURNAL_HEADER_SIZE = 28
JOURNAL_SECTOR_SIZE = 512
"""What SQLite assumes before it has read a header, and what we write."""
RECORD_N_UNKNOWN = 0xFFFFFFFF
SUPER_JOURNAL_NAME_MAX = 512
"""Longest super-journal name SQLite reads, as its default of mxPathname."""
_SUPER_TRAILER_SIZE = 16
_RECORD_OVERHEAD = 8
_CHECKSUM_STEP = 200
_SECTOR_SIZES = frozenset(1 << n for n in range(5, 17))

_HEADER = struct.Struct(">8s5I")
_U32 = struct.Struct(">I")
_SUPER_TRAILER = struct.Struct(">II8s")
assert _HEADER.size == JOURNAL_HEADER_SIZE
assert _SUPER_TRAILER.size == _SUPER_TRAILER_SIZE

ReadAt = Callable[[int, int], bytes]
"""(offset, size) → bytes of a file, fewer only at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHeader:
    """The header of a segment.

    Attributes:
        record_n: records in the segment, or `RECORD_N_UNKNOWN`.
        nonce: where the checksums of its records start.
        page_n: size of the database in pages before the transaction.
        sector_size: in bytes; counts in the first segment only.
        page_size: in bytes; counts in the first segment only.
    """

    record_n: int
    nonce: int
    page_n: int
    sector_size: int
    page_size: int

    def encode(self) -> bytes:
        """Returns the 28 bytes, without the padding."""
        return _HEADER.pack(JOURNAL_MAGIC, self.record_n, self.nonce, self.page_n, self.sector_size, self.page_size)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "JournalHeader":
        """Reads a header from the first 28 bytes of `data`; more is ignored.

        Sizes are not checked: SQLite writes zeros for them in later segments' place.

        Raises:
            NeedMoreData: fewer than 28 bytes.
            FormatError: wrong magic.
        """
        if len(data) < JOURNAL_HEADER_SIZE:
            raise NeedMoreData(f"journal header: {len(data)} of {JOURNAL_HEADER_SIZE} bytes")
        magic, record_n, nonce, page_n, sector_size, page_size = _HEADER.unpack_from(data)
        if magic != JOURNAL_MAGIC:
            raise FormatError("no journal: wrong magic")
        return cls(record_n=record_n, nonce=nonce, page_n=page_n, sector_size=sector_size, page_size=page_size)


def is_active(prefix: bytes | bytearray | memoryview) -> bool:
    """Returns whether a journal belongs to a transaction that has not ended.

    Args:
        prefix: the first 28 bytes of the file, or fewer if it is shorter. Empty or all zero: ended.
    """
    return any(prefix[:JOURNAL_HEADER_SIZE])


def record_checksum(nonce: int, page: bytes | bytearray | memoryview) -> int:
    """Returns the checksum of a record: every 200th byte from the end, but never the first 200."""
    return (nonce + sum(page[len(page) - _CHECKSUM_STEP : 0 : -_CHECKSUM_STEP])) & 0xFFFFFFFF


def super_journal_name(read_at: ReadAt, size: int) -> bytes | None:
    """Returns the name of the super-journal that a journal ends with, or None if it names none.

    Args:
        read_at: reads the journal.
        size: of the journal, in bytes.
    """
    if size < _SUPER_TRAILER_SIZE:
        return None
    trailer = read_at(size - _SUPER_TRAILER_SIZE, _SUPER_TRAILER_SIZE)
    if len(trailer) < _SUPER_TRAILER_SIZE:
        return None
    length, checksum, magic = _SUPER_TRAILER.unpack(trailer)
    if magic != JOURNAL_MAGIC or not 0 < length <= min(SUPER_JOURNAL_NAME_MAX, size - _SUPER_TRAILER_SIZE):
        return None
    name = read_at(size - _SUPER_TRAILER_SIZE - length, length)
    if len(name) < length or _name_checksum(name) != checksum:
        return None
    return name


def _name_checksum(name: bytes) -> int:
    """Sums the bytes as signed, as C's char is on the machines that SQLite is mostly built for."""
    return sum(byte - 256 if byte > 127 else byte for byte in name) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRecord:
    """A page as it was before the transaction.

    Attributes:
        pgno: the page.
        page: its bytes.
    """

    pgno: int
    page: bytes


class JournalReader:
    """Reads a hot journal as SQLite plays it back: the records that count, in order, and the size to cut to.

    What is wrong ends the playback without an error, as in SQLite: a torn journal protects pages that were not
    written yet. A caller that must respect a super-journal asks `super_journal_name` first.
    """

    def __init__(self, read_at: ReadAt, size: int) -> None:
        """Reads the first header.

        Args:
            read_at: reads the journal.
            size: of the journal, in bytes.
        """
        self._read_at = read_at
        self._size = size
        self._first = self._read_first_header()

    @property
    def header(self) -> JournalHeader | None:
        """The header of the first segment, or None if SQLite would play nothing back and cut nothing."""
        return self._first

    def _read_first_header(self) -> JournalHeader | None:
        if self._size < JOURNAL_SECTOR_SIZE:
            return None
        try:
            header = JournalHeader.decode(self._read_at(0, JOURNAL_HEADER_SIZE))
        except (FormatError, NeedMoreData):
            return None
        if header.page_size not in PAGE_SIZES or header.sector_size not in _SECTOR_SIZES:
            return None
        return header

    def records(self) -> Iterator[JournalRecord]:
        """Yields the records that SQLite writes back, a page possibly more than once."""
        first = self._first
        if first is None:
            return
        offset, segment = 0, first
        while True:
            offset += first.sector_size
            record_n = segment.record_n
            if record_n == RECORD_N_UNKNOWN:
                record_n = (self._size - offset) // (first.page_size + _RECORD_OVERHEAD)
            for _ in range(record_n):
                record, is_end = self._read_record(offset, segment.nonce, segment.page_n)
                if is_end:
                    return
                offset += first.page_size + _RECORD_OVERHEAD
                if record is not None:
                    yield record
            offset = -(-offset // first.sector_size) * first.sector_size
            if offset + first.sector_size > self._size:
                return
            try:
                segment = JournalHeader.decode(self._read_at(offset, JOURNAL_HEADER_SIZE))
            except (FormatError, NeedMoreData):
                return

    def _read_record(self, offset: int, nonce: int, page_n: int) -> tuple[JournalRecord | None, bool]:
        """Returns the record at `offset`, None if it is passed over, and whether the playback ends here."""
        assert self._first is not None
        page_size = self._first.page_size
        data = self._read_at(offset, page_size + _RECORD_OVERHEAD)
        if len(data) < page_size + _RECORD_OVERHEAD:
            return None, True
        pgno: int = _U32.unpack_from(data)[0]
        if pgno in (0, lock_pgno(page_size)):
            return None, True
        if pgno > page_n:
            return None, False
        page = data[4 : 4 + page_size]
        if record_checksum(nonce, page) != _U32.unpack_from(data, 4 + page_size)[0]:
            return None, True
        return JournalRecord(pgno=pgno, page=page), False


class JournalWriter:
    """Encodes a journal of one segment: `header`, then `record` for each page that is about to be overwritten.

    The count in the header is exact, so that a journal cut short by a crash plays back what it has: whoever writes it
    must have written all of it before the first page of the database.
    """

    def __init__(self, *, page_size: int, page_n: int, nonce: int, sector_size: int = JOURNAL_SECTOR_SIZE) -> None:
        """Begins a journal.

        Args:
            page_size: in bytes.
            page_n: size of the database in pages before the transaction.
            nonce: a random u32, so that records of an older journal in the same blocks do not count.
            sector_size: in bytes.

        Raises:
            FormatError: a size that SQLite would not play back.
        """
        if page_size not in PAGE_SIZES or sector_size not in _SECTOR_SIZES:
            raise FormatError(f"journal: page size {page_size}, sector size {sector_size}")
        self._page_size = page_size
        self._page_n = page_n
        self._nonce = nonce
        self._sector_size = sector_size
        self._lock_pgno = lock_pgno(page_size)

    def header(self, record_n: int) -> bytes:
        """Returns the header for `record_n` records, padded to the sector."""
        header = JournalHeader(
            record_n=record_n,
            nonce=self._nonce,
            page_n=self._page_n,
            sector_size=self._sector_size,
            page_size=self._page_size,
        )
        return header.encode().ljust(self._sector_size, b"\0")

    def record(self, pgno: int, page: bytes | bytearray | memoryview) -> bytes:
        """Returns the record of one page.

        Raises:
            FormatError: a page that SQLite would not play back: beyond page_n, or the lock page, or of another size.
        """
        if not 0 < pgno <= self._page_n or pgno == self._lock_pgno or len(page) != self._page_size:
            raise FormatError(f"journal record of page {pgno}, {len(page)} bytes, in {self._page_n} pages")
        return b"".join((_U32.pack(pgno), page, _U32.pack(record_checksum(self._nonce, page))))

r"""The first 100 bytes of an SQLite database, as far as replication reads them.

    offset size field
    0      16   magic "SQLite format 3\0"
    16     2    page_size, 1 means 65536
    18     1    write_version: 1 rollback journal, 2 WAL
    19     1    read_version: likewise
    24     4    change_counter
    28     4    page_n: size of the database in pages; may be stale, see `version_valid_for`
    92     4    version_valid_for: the change counter at which page_n was right

All integers are big-endian.

Source: sqlite.org/fileformat2.html, section 1.3.
"""

import struct
from dataclasses import dataclass

from litefs.errors import FormatError

DATABASE_HEADER_SIZE = 100
DATABASE_MAGIC = b"SQLite format 3\x00"
WAL_VERSION_BYTE = 2
PAGE_SIZES = frozenset(1 << n for n in range(9, 17))
"""512 … 65536, the page sizes of SQLite."""

_HEADER = struct.Struct(">16sHBB4xII60xI")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
assert _HEADER.size == 96


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteHeader:
    """What page 1 says about its database.

    Attributes:
        page_size: in bytes.
        change_counter: incremented by each commit in rollback mode.
        page_n: size of the database in pages, as the header has it.
        version_valid_for: the change counter when page_n was written.
    """

    page_size: int
    change_counter: int
    page_n: int
    version_valid_for: int

    @property
    def is_page_n_valid(self) -> bool:
        """Whether SQLite believes page_n, rather than the size of the file."""
        return self.page_n > 0 and self.change_counter == self.version_valid_for

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> "SqliteHeader":
        """Reads the header from the first 100 bytes of page 1; more is ignored.

        Raises:
            FormatError: shorter, no SQLite database, or a page size or version that SQLite does not have.
        """
        if len(data) < DATABASE_HEADER_SIZE:
            raise FormatError(f"database header: {len(data)} of {DATABASE_HEADER_SIZE} bytes")
        magic, size, write_version, read_version, counter, page_n, valid_for = _HEADER.unpack_from(data)
        if magic != DATABASE_MAGIC:
            raise FormatError("no SQLite database: wrong magic")
        page_size = 65536 if size == 1 else size
        if page_size not in PAGE_SIZES:
            raise FormatError(f"database header: page size {page_size}")
        if read_version not in (1, 2) or write_version not in (1, 2):
            raise FormatError(f"database header: versions {write_version}, {read_version}")
        return cls(
            page_size=page_size,
            change_counter=counter,
            page_n=page_n,
            version_valid_for=valid_for,
        )


def page_size_of(page1: bytes | bytearray | memoryview) -> int:
    """Returns the page size in bytes that page 1 states, unchecked."""
    size: int = _U16.unpack_from(page1, 16)[0]
    return 65536 if size == 1 else size


def page_n_of(page1: bytes | bytearray | memoryview) -> int:
    """Returns the size of the database in pages that page 1 states, unchecked.

    Returns:
        0 where the size of the file is what counts: an SQLite before 3.7.0 was the last to write.
    """
    page_n: int = _U32.unpack_from(page1, 28)[0]
    return page_n if page1[24:28] == page1[92:96] else 0


def is_wal_mode(page1: bytes | bytearray | memoryview) -> bool:
    """Returns whether page 1 says that the database is in WAL mode."""
    return page1[19] == WAL_VERSION_BYTE

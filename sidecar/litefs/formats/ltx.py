"""The LTX image, version 1: one transaction, or a run of them, as the pages they changed. Its header and trailer.

Header, 100 bytes, big-endian:

    offset size field        meaning                                      zero when
    0      4    magic        "LTX1"
    4      4    flags        bit 0: the page block is LZ4; others refused
    8      4    page_size    512 … 65536, a power of two
    12     4    commit       database size in pages afterwards            the database was dropped
    16     8    min_txid     first transaction                            never
    24     8    max_txid     last transaction, ≥ min_txid                 never
    32     8    timestamp_ms Unix milliseconds, signed
    40     8    pre_apply    database checksum before                     min_txid is 1, and only then
    48     8    wal_offset   of the frames in the WAL, signed             not from a WAL, as the next three
    56     8    wal_size     bytes of frames in the WAL, signed
    64     4    wal_salt1
    68     4    wal_salt2
    72     8    node_id      where it was committed                       compacted
    80     20   reserved     not validated, but in the file checksum      always

Page block: { u32 pgno, ascending, never 0 and never the lock page | page_size bytes }*, then u32 0.
With flag bit 0 the whole block, its end mark included, is one LZ4 frame (64 KiB independent blocks, content checksum).

Trailer, 16 bytes, big-endian, never compressed: u64 post_apply | u64 file checksum, which is
2^63 | crc64(header ‖ page block uncompressed, with its end mark ‖ post_apply).

An image with min_txid 1 is a snapshot: it follows nothing and holds every page.

Source: superfly/ltx v0.3.14.
"""

import struct
from dataclasses import dataclass

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.checksum import CHECKSUM_FLAG, EMPTY_DATABASE_CHECKSUM, PENDING_BYTE
from litefs.formats.position import NO_NODE, Checksum, NodeId, Pos, Txid
from litefs.formats.sqlite_header import PAGE_SIZES

MAGIC = b"LTX1"
HEADER_SIZE = 100
TRAILER_SIZE = 16
PAGE_HEADER_SIZE = 4
FLAG_LZ4 = 1 << 0

_HEADER = struct.Struct(">4sIIIQQqQqqIIQ20x")
_TRAILER = struct.Struct(">QQ")
assert _HEADER.size == HEADER_SIZE
assert _TRAILER.size == TRAILER_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class LtxHeader:
    """The header of an image; building one that breaks a rule raises `FormatError`.

    Attributes:
        page_size: in bytes.
        commit: size of the database afterwards, in pages; 0 if it was dropped.
        min_txid: first transaction in the image.
        max_txid: last transaction in the image.
        timestamp_ms: Unix time of the last transaction, in milliseconds.
        pre_apply: database checksum that the image follows; 0 for a snapshot.
        flags: `FLAG_LZ4` or 0.
        wal_offset: where in the WAL its frames began, in bytes; 0 if not from a WAL, like the next three.
        wal_size: how many bytes of frames.
        wal_salt1: salt of that WAL.
        wal_salt2: salt of that WAL.
        node_id: the node that committed it; 0 after compaction.
    """

    page_size: int
    commit: int
    min_txid: Txid
    max_txid: Txid
    timestamp_ms: int
    pre_apply: Checksum
    flags: int = 0
    wal_offset: int = 0
    wal_size: int = 0
    wal_salt1: int = 0
    wal_salt2: int = 0
    node_id: NodeId = NO_NODE

    def __post_init__(self) -> None:
        """Checks every rule of the format that concerns the header alone."""
        if self.flags & ~FLAG_LZ4:
            raise FormatError(f"LTX header: unknown flags {self.flags:#010x}")
        if self.page_size not in PAGE_SIZES:
            raise FormatError(f"LTX header: page size {self.page_size}")
        if not 0 < self.min_txid <= self.max_txid:
            raise FormatError(f"LTX header: transactions {self.min_txid} to {self.max_txid}")
        if self.min_txid == 1:
            if self.pre_apply:
                raise FormatError("LTX header: a snapshot with a pre-apply checksum")
        elif not self.pre_apply & CHECKSUM_FLAG:
            raise FormatError(f"LTX header: pre-apply checksum {self.pre_apply:016x}")
        if self.wal_offset or self.wal_size or self.wal_salt1 or self.wal_salt2:
            self._check_wal_fields()

    def _check_wal_fields(self) -> None:
        if self.wal_offset <= 0 or self.wal_size <= 0:
            raise FormatError(f"LTX header: WAL offset {self.wal_offset}, WAL size {self.wal_size}")

    @property
    def is_snapshot(self) -> bool:
        """Whether the image holds the whole database and follows nothing."""
        return self.min_txid == 1

    @property
    def is_lz4(self) -> bool:
        """Whether the page block is compressed."""
        return bool(self.flags & FLAG_LZ4)

    @property
    def pre_apply_pos(self) -> Pos:
        """The position that the image follows."""
        return Pos(txid=Txid(self.min_txid - 1), checksum=self.pre_apply)

    def encode(self) -> bytes:
        """Returns the 100 bytes.

        Raises:
            FormatError: a field does not fit its width.
        """
        try:
            return _HEADER.pack(
                MAGIC,
                self.flags,
                self.page_size,
                self.commit,
                self.min_txid,
                self.max_txid,
                self.timestamp_ms,
                self.pre_apply,
                self.wal_offset,
                self.wal_size,
                self.wal_salt1,
                self.wal_salt2,
                self.node_id,
            )
        except struct.error as error:
            raise FormatError(f"LTX header: {error}") from None

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "LtxHeader":
        """Reads the header from the first 100 bytes of `data`; more is ignored.

        Raises:
            NeedMoreData: fewer than 100 bytes, and what is there may be a header.
            FormatError: no LTX image, or a rule is broken.
        """
        if len(data) < HEADER_SIZE:
            if not MAGIC.startswith(bytes(data[:4])):
                raise FormatError("no LTX image: wrong magic")
            raise NeedMoreData(f"LTX header: {len(data)} of {HEADER_SIZE} bytes")
        magic, flags, page_size, commit, min_txid, max_txid, timestamp_ms, pre_apply, *rest = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise FormatError("no LTX image: wrong magic")
        wal_offset, wal_size, wal_salt1, wal_salt2, node_id = rest
        return cls(
            flags=flags,
            page_size=page_size,
            commit=commit,
            min_txid=min_txid,
            max_txid=max_txid,
            timestamp_ms=timestamp_ms,
            pre_apply=pre_apply,
            wal_offset=wal_offset,
            wal_size=wal_size,
            wal_salt1=wal_salt1,
            wal_salt2=wal_salt2,
            node_id=node_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LtxTrailer:
    """The last 16 bytes of an image.

    Attributes:
        post_apply: database checksum after the image.
        file_checksum: checksum of everything before it, the page block uncompressed.
    """

    post_apply: Checksum
    file_checksum: Checksum

    def encode(self) -> bytes:
        """Returns the 16 bytes."""
        return _TRAILER.pack(self.post_apply, self.file_checksum)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> "LtxTrailer":
        """Reads the trailer from the first 16 bytes of `data`.

        Raises:
            NeedMoreData: fewer than 16 bytes.
        """
        if len(data) < TRAILER_SIZE:
            raise NeedMoreData(f"LTX trailer: {len(data)} of {TRAILER_SIZE} bytes")
        post_apply, file_checksum = _TRAILER.unpack_from(data)
        return cls(post_apply=post_apply, file_checksum=file_checksum)


def check_post_apply(header: LtxHeader, post_apply: int) -> None:
    """Checks the post-apply checksum as far as the header tells.

    Raises:
        FormatError: bit 63 is not set, or a dropped database has pages in its checksum.
    """
    if not post_apply & CHECKSUM_FLAG:
        raise FormatError(f"LTX trailer: post-apply checksum {post_apply:016x}")
    if header.commit == 0 and post_apply != EMPTY_DATABASE_CHECKSUM:
        raise FormatError(f"LTX trailer: a dropped database with post-apply checksum {post_apply:016x}")


def image_name(min_txid: int, max_txid: int) -> str:
    """Returns the file name of an image, as `litefs ltx` and backups use it."""
    return f"{min_txid:016x}-{max_txid:016x}.ltx"


def check_snapshot_page_n(header: LtxHeader, page_n: int) -> None:
    """Checks that a snapshot holds every page; with ascending numbers within bounds, counting them is enough.

    Raises:
        FormatError: pages are missing.
    """
    lock = PENDING_BYTE // header.page_size + 1
    expected = header.commit - (header.commit >= lock)
    if page_n != expected:
        raise FormatError(f"LTX snapshot of {page_n} pages, {expected} expected")


def check_file_checksum(expected: int, found: int) -> None:
    """Compares a file checksum with that of the trailer.

    Raises:
        ChecksumError: they differ.
    """
    if expected != found:
        raise ChecksumError(f"LTX file checksum {found:016x}, computed {expected:016x}")

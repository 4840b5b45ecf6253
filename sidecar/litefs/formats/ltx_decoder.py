"""Decodes an LTX image from pieces of any size, in bounded memory, believing nothing.

Strategy: states follow the bytes (header → pages → frame end → trailer → done). What a piece completes is returned;
what it does not complete is kept: less than one page. The CRC runs over each piece once.

Guarantees: a page is returned before the file checksum could be verified, so what was returned counts only once
`done` is true. Ascending numbers, bounds and the lock page are checked before a page is returned. With LZ4 one `feed`
can return up to 255 times its input, which is LZ4's limit: `FEED_BYTES` at a time, that is 16 MiB.

Source: see `litefs.formats.ltx`.
"""

import struct
from enum import Enum, auto

import lz4.frame

from litefs.errors import ChecksumError, FormatError, NeedMoreData
from litefs.formats.checksum import CHECKSUM_FLAG, PENDING_BYTE, crc64, page_checksum
from litefs.formats.ltx import (
    HEADER_SIZE,
    PAGE_HEADER_SIZE,
    TRAILER_SIZE,
    LtxHeader,
    LtxTrailer,
    check_file_checksum,
    check_post_apply,
    check_snapshot_page_n,
)

FEED_BYTES = 64 << 10
"""How much to feed at a time what may be compressed."""

_unpack_pgno = struct.Struct(">I").unpack_from

_DECOMPRESS_SIZE_MAX = 256 * 1024
"""How much is decompressed at a time: without a bound, lz4 takes ten times the output while it guesses its size."""


class _State(Enum):
    HEADER = auto()
    PAGES = auto()
    FRAME_END = auto()  # LZ4 only: the end mark was seen, the frame's own end was not
    TRAILER = auto()
    DONE = auto()


class LtxDecoder:
    """A push parser of one image. After an error it is of no further use."""

    def __init__(self) -> None:
        """Begins at the first byte of an image."""
        self._state = _State.HEADER
        self._rest = b""  # fed, and not yet a whole header or trailer; after the end, what followed
        self._block_rest = b""  # of the page block, and not yet a whole page
        self._header: LtxHeader | None = None
        self._trailer: LtxTrailer | None = None
        self._decompressor: lz4.frame.LZ4FrameDecompressor | None = None
        self._crc = 0
        self._previous = 0
        self._page_n = 0
        self._snapshot_sum = 0

    @property
    def header(self) -> LtxHeader | None:
        """The header, once its 100 bytes are there."""
        return self._header

    @property
    def trailer(self) -> LtxTrailer | None:
        """The trailer, once the image is complete and verified."""
        return self._trailer

    @property
    def done(self) -> bool:
        """Whether the image is complete and verified."""
        return self._state is _State.DONE

    @property
    def unused(self) -> bytes:
        """The bytes that were fed behind the image."""
        return self._rest if self.done else b""

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """Takes the next bytes and returns the pages they complete.

        Returns:
            (pgno, page) in ascending order, possibly none.

        Raises:
            FormatError: this is no LTX image, or a rule is broken.
            ChecksumError: a checksum does not hold.
        """
        rest = b"".join((self._rest, data))
        pages: list[tuple[int, bytes]] = []
        if self._state is _State.HEADER:
            rest = self._take_header(rest)
        if self._header is not None and self._state in (_State.PAGES, _State.FRAME_END):
            take = self._take_pages if self._decompressor is None else self._take_compressed
            rest = take(self._header, rest, pages)
        if self._header is not None and self._state is _State.TRAILER and len(rest) >= TRAILER_SIZE:
            rest = self._take_trailer(self._header, rest)
        self._rest = rest
        return pages

    def _take_header(self, data: bytes) -> bytes:
        try:
            header = LtxHeader.decode(data)
        except NeedMoreData:
            return data
        self._header = header
        self._crc = crc64(data[:HEADER_SIZE])
        self._decompressor = lz4.frame.LZ4FrameDecompressor() if header.is_lz4 else None
        self._state = _State.PAGES
        return data[HEADER_SIZE:]

    def _take_pages(self, header: LtxHeader, block: bytes, pages: list[tuple[int, bytes]]) -> bytes:
        """Takes whole pages and the end mark off the front of `block`; returns what remains."""
        page_size, commit = header.page_size, header.commit
        stride, lock = PAGE_HEADER_SIZE + page_size, PENDING_BYTE // page_size + 1
        offset, end, previous, first_new = 0, len(block) - PAGE_HEADER_SIZE, self._previous, len(pages)
        while offset <= end:
            pgno: int = _unpack_pgno(block, offset)[0]
            if not pgno:
                offset += PAGE_HEADER_SIZE
                self._state = _State.TRAILER
                break
            if not previous < pgno <= commit or pgno == lock:
                raise FormatError(f"LTX page {pgno} after page {previous}, commit {commit}")
            if offset + stride > len(block):
                break
            pages.append((pgno, block[offset + PAGE_HEADER_SIZE : offset + stride]))
            previous = pgno
            offset += stride
        self._previous = previous
        self._page_n += len(pages) - first_new
        self._crc = crc64(memoryview(block)[:offset], self._crc)
        if header.min_txid == 1:
            for pgno, page in pages[first_new:]:
                self._snapshot_sum ^= page_checksum(pgno, page)
        return block[offset:]

    def _take_compressed(self, header: LtxHeader, data: bytes, pages: list[tuple[int, bytes]]) -> bytes:
        """Takes what belongs to the LZ4 frame off the front of `data`; returns what follows the frame."""
        decompressor = self._decompressor
        assert decompressor is not None
        while data or not decompressor.needs_input:
            try:
                block = self._block_rest + decompressor.decompress(data, _DECOMPRESS_SIZE_MAX)
            except RuntimeError as error:
                kind = ChecksumError if "hecksum" in str(error) else FormatError
                raise kind(f"LTX page block: {error}") from None
            data = b""
            if self._state is _State.PAGES:
                block = self._take_pages(header, block, pages)
            self._block_rest = block
            if self._state is _State.PAGES and decompressor.eof:
                raise FormatError("LTX page block: the LZ4 frame ends before the end mark")
            if self._state is not _State.PAGES:
                if block:
                    raise FormatError("LTX page block: bytes behind its end mark")
                self._state = _State.FRAME_END
            if decompressor.eof:
                self._state = _State.TRAILER
                return decompressor.unused_data or b""
        return b""

    def _take_trailer(self, header: LtxHeader, data: bytes) -> bytes:
        trailer = LtxTrailer.decode(data)
        check_file_checksum(CHECKSUM_FLAG | crc64(data[:8], self._crc), trailer.file_checksum)
        check_post_apply(header, trailer.post_apply)
        if header.is_snapshot:
            check_snapshot_page_n(header, self._page_n)
            if trailer.post_apply != CHECKSUM_FLAG | self._snapshot_sum:
                raise ChecksumError("LTX snapshot: the post-apply checksum is not that of its pages")
        self._trailer = trailer
        self._state = _State.DONE
        return data[TRAILER_SIZE:]


def decode_image(data: bytes | bytearray | memoryview) -> tuple[LtxHeader, list[tuple[int, bytes]], LtxTrailer]:
    """Decodes and verifies a whole image that fits in memory.

    Returns:
        Header, (pgno, page) in ascending order, trailer.

    Raises:
        NeedMoreData: `data` ends before the image does.
        FormatError: no LTX image, a rule is broken, or bytes follow the image.
        ChecksumError: a checksum does not hold.
    """
    decoder = LtxDecoder()
    pages = decoder.feed(data)
    if decoder.header is None or decoder.trailer is None:
        raise NeedMoreData(f"LTX image: {len(data)} bytes are not all of it")
    if decoder.unused:
        raise FormatError(f"LTX image: {len(decoder.unused)} bytes behind it")
    return decoder.header, pages, decoder.trailer

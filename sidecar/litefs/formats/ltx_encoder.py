"""Encodes LTX images: small ones at once (`encode_image`), large ones piece by piece (`LtxEncoder`).

Strategy: a small image is one join and one CRC over the whole. For a large one the caller asks for the header's bytes,
hands in pages in ascending order, and asks for the end; what was returned is not kept, so that memory stays at what one
call was given (plus one 64 KiB block with LZ4).

Source: see `litefs.formats.ltx`.
"""

import struct
from collections.abc import Sequence

import lz4.frame

from litefs.errors import FormatError
from litefs.formats.checksum import CHECKSUM_FLAG, PENDING_BYTE, crc64
from litefs.formats.ltx import PAGE_HEADER_SIZE, LtxHeader, LtxTrailer, check_post_apply, check_snapshot_page_n
from litefs.formats.position import Checksum

_pack_pgno = struct.Struct(">I").pack
_pack_u64 = struct.Struct(">Q").pack
_pack_end_and_post_apply = struct.Struct(">IQ").pack
_END_MARK = bytes(PAGE_HEADER_SIZE)


def encode_image(
    header: LtxHeader, pages: Sequence[tuple[int, bytes | bytearray | memoryview]], post_apply: int
) -> bytes:
    """Encodes a whole image at once: the hot path of a commit. Large images go through `LtxEncoder`.

    Args:
        header: its flags decide whether the page block is compressed.
        pages: (pgno, page), ascending.
        post_apply: checksum of the database afterwards.

    Returns:
        The image, byte for byte as it goes to the log and to peers.

    Raises:
        FormatError: a page is out of order, out of bounds, the lock page or of the wrong size, or `post_apply`
            cannot be right.
    """
    page_size, commit = header.page_size, header.commit
    lock = PENDING_BYTE // page_size + 1
    pack = _pack_pgno
    parts: list[bytes | bytearray | memoryview] = [header.encode()]
    previous = 0
    for pgno, data in pages:
        if not previous < pgno <= commit or pgno == lock or len(data) != page_size:
            raise FormatError(f"LTX page {pgno} of {len(data)} bytes after page {previous}, commit {commit}")
        previous = pgno
        parts.append(pack(pgno))
        parts.append(data)
    check_post_apply(header, post_apply)
    if header.min_txid == 1:
        check_snapshot_page_n(header, len(pages))
    if header.flags:
        return _encode_compressed(parts, post_apply)
    parts.append(_pack_end_and_post_apply(0, post_apply))
    body = b"".join(parts)
    return body + _pack_u64(CHECKSUM_FLAG | crc64(body))


def _encode_compressed(parts: list[bytes | bytearray | memoryview], post_apply: int) -> bytes:
    header = bytes(parts[0])
    parts[0] = b""
    parts.append(_END_MARK)
    block = b"".join(parts)
    post = _pack_u64(post_apply)
    file_checksum = CHECKSUM_FLAG | crc64(post, crc64(block, crc64(header)))
    return b"".join((header, _compress_block(block), post, _pack_u64(file_checksum)))


def _compress_block(block: bytes) -> bytes:
    """Returns `block` as one LZ4 frame whose header is that of the Go encoder: 04 22 4d 18 64 40 a7."""
    frame: bytes = lz4.frame.compress(
        block,
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
        block_linked=False,
        content_checksum=True,
        store_size=False,
    )
    return frame


class LtxEncoder:
    """A streaming encoder of one image: `header_bytes`, then `page` and `pages` in any mix, then `finish`.

    Each call returns the bytes to write next; with LZ4 they may be empty, or several blocks at once.
    """

    def __init__(self, header: LtxHeader) -> None:
        """Args: header: its flags decide whether the page block is compressed."""
        self._header = header
        self._header_bytes = header.encode()
        self._crc = crc64(self._header_bytes)
        self._lock_pgno = PENDING_BYTE // header.page_size + 1
        self._previous = 0
        self._page_n = 0
        self._finished = False
        self._compressor = _new_compressor() if header.is_lz4 else None
        self._prefix: bytes = self._compressor.begin() if self._compressor else b""

    @property
    def header(self) -> LtxHeader:
        """The header that the image was begun with."""
        return self._header

    def header_bytes(self) -> bytes:
        """Returns the first 100 bytes of the image, to be written before all else."""
        return self._header_bytes

    def page(self, pgno: int, data: bytes | bytearray | memoryview) -> bytes:
        """Adds one page.

        Raises:
            FormatError: out of order, out of bounds, a gap in a snapshot, the lock page, or of the wrong size.
        """
        if len(data) != self._header.page_size:
            raise FormatError(f"LTX page {pgno} of {len(data)} bytes, page size {self._header.page_size}")
        self._check_run(pgno, pgno, 1)
        return self._emit(b"".join((_pack_pgno(pgno), data)))

    def pages(self, first_pgno: int, data: bytes | bytearray | memoryview) -> bytes:
        """Adds consecutive pages, as they lie in a database file; the lock page among them is left out.

        Args:
            first_pgno: number of the first page in `data`.
            data: whole pages. Not kept.

        Raises:
            FormatError: as `page`.
        """
        page_size, lock = self._header.page_size, self._lock_pgno
        page_n, rest = divmod(len(data), page_size)
        if rest:
            raise FormatError(f"LTX pages from {first_pgno}: {len(data)} bytes are no whole pages")
        if not page_n:
            return b""
        last_pgno = first_pgno + page_n - 1
        has_lock = first_pgno <= lock <= last_pgno
        if has_lock and page_n == 1:
            return b""
        self._check_run(first_pgno + (first_pgno == lock), last_pgno - (last_pgno == lock), page_n - has_lock)
        view, pack = memoryview(data), _pack_pgno
        parts: list[bytes | memoryview] = []
        for pgno, offset in enumerate(range(0, len(data), page_size), first_pgno):
            parts.append(pack(pgno))
            parts.append(view[offset : offset + page_size])
        if has_lock:
            del parts[2 * (lock - first_pgno) : 2 * (lock - first_pgno) + 2]
        return self._emit(b"".join(parts))

    def finish(self, post_apply: int) -> bytes:
        """Ends the image.

        Args:
            post_apply: checksum of the database afterwards.

        Returns:
            The rest of the page block and the trailer.

        Raises:
            FormatError: a snapshot lacks pages, or `post_apply` cannot be right.
        """
        assert not self._finished, "an image is finished once"
        check_post_apply(self._header, post_apply)
        if self._header.is_snapshot:
            check_snapshot_page_n(self._header, self._page_n)
        end = self._emit(_END_MARK)
        if self._compressor:
            end += self._compressor.flush()
        self._finished = True
        self._crc = crc64(_pack_u64(post_apply), self._crc)
        trailer = LtxTrailer(post_apply=Checksum(post_apply), file_checksum=Checksum(CHECKSUM_FLAG | self._crc))
        return end + trailer.encode()

    def _check_run(self, first_pgno: int, last_pgno: int, page_n: int) -> None:
        """Checks and counts the pages of one call, which are consecutive but for the lock page."""
        assert not self._finished, "no page after the end of the image"
        header, previous, lock = self._header, self._previous, self._lock_pgno
        if not previous < first_pgno <= last_pgno <= header.commit:
            raise FormatError(f"LTX pages {first_pgno} to {last_pgno} after page {previous}, commit {header.commit}")
        if first_pgno == lock:
            raise FormatError(f"LTX page {first_pgno} is the lock page")
        if header.is_snapshot and first_pgno != previous + 1 + (previous + 1 == lock):
            raise FormatError(f"LTX snapshot: page {first_pgno} after page {previous}")
        self._previous = last_pgno
        self._page_n += page_n

    def _emit(self, block: bytes) -> bytes:
        self._crc = crc64(block, self._crc)
        if self._compressor is None:
            return block
        compressed: bytes = self._prefix + self._compressor.compress(block)
        self._prefix = b""
        return compressed


def _new_compressor() -> lz4.frame.LZ4FrameCompressor:
    """Returns a compressor whose frame header is that of the Go encoder."""
    return lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False, content_checksum=True
    )

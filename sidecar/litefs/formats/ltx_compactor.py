"""Merges consecutive LTX images into one: the last image that has a page gives it.

Strategy: a k-way merge by page number over decoders that are driven as far as the merge needs them, so that memory
stays at a few pieces per input. Nothing returned counts before the iterator has ended: checksums come last.

A page counts only if no later image cut the database below it. A page that the database lost and got back without a
write is zero, and is written out as such: on the base it may still have its old content. (superfly/ltx has neither
rule; there such a run of images compacts to one whose post-apply checksum does not hold.)

Source: superfly/ltx v0.3.14.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from litefs.errors import FormatError, PositionMismatchError
from litefs.formats.checksum import lock_pgno
from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_decoder import LtxDecoder
from litefs.formats.ltx_encoder import LtxEncoder


def compact(images: Sequence[Iterable[bytes]], flags: int = 0) -> Iterator[bytes]:
    """Merges images that follow one another into one.

    Args:
        images: in order of their transactions; each is the pieces of one image, one piece if it is in memory.
        flags: of the header of the result: `FLAG_LZ4` or 0.

    Yields:
        The pieces of the result. Its node id and WAL fields are 0, its timestamp and commit those of the last image.

    Raises:
        FormatError: an image is not valid or not complete, or page sizes differ.
        PositionMismatchError: an image does not follow the one before it.
    """
    inputs = [_Input(index, pieces) for index, pieces in enumerate(images)]
    headers = [each.header for each in inputs]
    encoder = LtxEncoder(_merged_header(headers, flags))
    yield encoder.header_bytes()
    yield from _merge(inputs, encoder)
    for before, after in pairwise(inputs):
        if before.post_apply != after.header.pre_apply:
            raise PositionMismatchError(f"image {after.header.min_txid:016x} does not follow the one before it")
    yield encoder.finish(inputs[-1].post_apply)


class _Input:
    """One image of the run, decoded as far as it was asked for."""

    def __init__(self, index: int, pieces: Iterable[bytes]) -> None:
        self.rank = -index  # of images with the same page, the latest comes first
        self._name = f"image {index} of the run"
        self._pieces = iter(pieces)
        self._decoder = LtxDecoder()
        self._pages: list[tuple[int, bytes]] = []
        while self._decoder.header is None:
            self._feed()
        self.header: LtxHeader = self._decoder.header

    @property
    def post_apply(self) -> int:
        assert self._decoder.trailer is not None, "known once the pages are through"
        return self._decoder.trailer.post_apply

    def pages(self) -> Iterator[tuple[int, int, bytes]]:
        """Yields (pgno, rank, page), ascending; when it ends, the image is verified."""
        while True:
            for pgno, page in self._pages:
                yield pgno, self.rank, page
            self._pages = []
            if self._decoder.done:
                break
            self._feed()
        if self._decoder.unused or next(self._pieces, None):
            raise FormatError(f"{self._name}: bytes behind it")

    def _feed(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise FormatError(f"{self._name} is cut short")
        self._pages += self._decoder.feed(piece)


def _merged_header(headers: Sequence[LtxHeader], flags: int) -> LtxHeader:
    if not headers:
        raise FormatError("no images to compact")
    first, last = headers[0], headers[-1]
    for before, after in pairwise(headers):
        if after.page_size != before.page_size:
            raise FormatError(f"page sizes {before.page_size} and {after.page_size}")
        if after.min_txid != before.max_txid + 1:
            raise PositionMismatchError(f"image {after.min_txid:016x} after {before.max_txid:016x}")
    return LtxHeader(
        flags=flags,
        page_size=first.page_size,
        commit=last.commit,
        min_txid=first.min_txid,
        max_txid=last.max_txid,
        timestamp_ms=last.timestamp_ms,
        pre_apply=first.pre_apply,
    )


def _merge(inputs: Sequence[_Input], encoder: LtxEncoder) -> Iterator[bytes]:
    """Yields the encoded pages of the result, ascending."""
    commit = encoder.header.commit
    # Pages of image i that outlive it: those within the smallest size that the database has later on.
    survives_to = [commit] * len(inputs)
    for index in range(len(inputs) - 2, -1, -1):
        survives_to[index] = min(survives_to[index + 1], inputs[index + 1].header.commit)
    # Beyond the smallest size of all, every page of the result was written after that, or is zero.
    kept = min(each.header.commit for each in inputs)
    last = 0
    for pgno, rank, page in heapq.merge(*(each.pages() for each in inputs), key=lambda item: item[:2]):
        if pgno != last and pgno <= survives_to[-rank]:
            yield from _zero_pages(encoder, max(last, kept) + 1, pgno)
            yield encoder.page(pgno, page)
            last = pgno
    yield from _zero_pages(encoder, max(last, kept) + 1, commit + 1)


def _zero_pages(encoder: LtxEncoder, first_pgno: int, end_pgno: int) -> Iterator[bytes]:
    lock, page = lock_pgno(encoder.header.page_size), bytes(encoder.header.page_size)
    for pgno in range(first_pgno, end_pgno):
        if pgno != lock:
            yield encoder.page(pgno, page)

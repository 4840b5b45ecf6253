"""Images that are in the local log: as they just came from the primary, or read back from the log.

Strategy: an applier wants pages one after the other, possibly twice (after a lock was not to be had). Those of a
small image are at hand; those of a large one are decoded from the log as they are asked for, so that a large
transaction costs no memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from litefs.errors import FormatError
from litefs.formats.ltx import HEADER_SIZE, LtxHeader
from litefs.formats.ltx_decoder import FEED_BYTES, LtxDecoder, decode_image
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE
from litefs.node.mounted_database import Page
from litefs.storage.log_reader import ImageRef, LogReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in the local log.

    Attributes:
        header: its header.
        post_apply: checksum of the database after it.
        pages: returns the pages, ascending, from the start each time.
        first_page: the first 100 bytes of page 1 if the image has it, else b"".
        size_bytes: memory that the pages occupy; 0 if they are read from the log.
    """

    header: LtxHeader
    post_apply: int
    pages: Callable[[], Iterable[Page]]
    first_page: bytes
    size_bytes: int


def image_of(header: LtxHeader, post_apply: int, pages: Sequence[Page]) -> Image:
    """Returns an image whose pages are in memory."""
    return Image(
        header=header,
        post_apply=post_apply,
        pages=lambda: pages,
        first_page=_first_page(pages[0] if pages else None),
        size_bytes=len(pages) * header.page_size,
    )


class LoggedImages:
    """Reads images of one database back from its log. Belongs to one thread."""

    def __init__(self, log_dir: Path) -> None:
        """Args: log_dir: of the database; another process writes it."""
        self._reader = LogReader(log_dir)

    def image(self, txid: int) -> Image:
        """Returns the image that starts at `txid`; the pages of a large one can be read until `close`.

        Raises:
            LogGapError: the log does not hold it.
            FormatError: it is damaged.
        """
        reader = self._reader
        ref = next(reader.images(txid, txid))
        if ref.size <= FEED_BYTES:
            header, pages, trailer = decode_image(reader.read(ref, 0, ref.size))
            return image_of(header, trailer.post_apply, pages)
        header = LtxHeader.decode(reader.read(ref, 0, HEADER_SIZE))
        return Image(
            header=header,
            post_apply=ref.post_apply,
            pages=lambda: _pages(reader, ref),
            first_page=_first_page(next(_pages(reader, ref), None)),
            size_bytes=0,
        )

    def close(self) -> None:
        """Closes the log; the next `image` opens it anew."""
        self._reader.close()


def _first_page(page: Page | None) -> bytes:
    return bytes(page[1][:DATABASE_HEADER_SIZE]) if page is not None and page[0] == 1 else b""


def _pages(reader: LogReader, ref: ImageRef) -> Iterator[Page]:
    decoder = LtxDecoder()
    for start in range(0, ref.size, FEED_BYTES):
        yield from decoder.feed(reader.read(ref, start, min(FEED_BYTES, ref.size - start)))
    if not decoder.done:
        raise FormatError(f"{ref.path}: image {ref.min_txid:016x} is cut short")

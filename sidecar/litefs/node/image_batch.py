"""Several images of one database that are applied as one: what has piled up while the one before was applied.

Strategy: of each page the newest content counts, so a long run of small transactions costs as much as the pages that it
touched. Readers see one step, from the state before the first image to the one after the last.

The filesystem process recognises the last image by the state that the pages lead to (`storage/expected.py`), so what it
could not tell apart does not come together: two images that end in the same checksum. Drops and changes of the journal
mode are applied by themselves, and so is what memory is too small for.
"""

from dataclasses import replace

from litefs.formats.sqlite_header import is_wal_mode
from litefs.node.image import Image
from litefs.node.mounted_database import Page
from litefs.storage.expected import AT_ONCE_MAX

BATCH_BYTES = 4 << 20
"""Pages of one batch. In rollback mode readers wait while they are written."""


class ImageBatch:
    """One image, and those behind it that may be applied with it.

    Attributes:
        since_ms: time stamp of the first: readers are at least that old until the batch is applied.
        last_txid: of the last one.
    """

    def __init__(self, first: Image, *, in_wal_mode: bool) -> None:
        """Args: in_wal_mode: how the database is written now."""
        self._images = [first]
        self._in_wal_mode = in_wal_mode
        self._bytes = first.size_bytes
        self._ends = {first.header.pre_apply, first.post_apply}
        self._is_closed = not self._is_ordinary(first) or len(self._ends) == 1
        self.since_ms = first.header.timestamp_ms
        self.last_txid = first.header.max_txid

    def take(self, image: Image) -> bool:
        """Adds the next image, if it may be applied with the others. Returns whether it was added."""
        if (
            self._is_closed
            or image.header.min_txid != self.last_txid + 1
            or not self._is_ordinary(image)
            or image.post_apply in self._ends
            or len(self._images) == AT_ONCE_MAX
            or self._bytes + image.size_bytes > BATCH_BYTES
        ):
            return False
        self._images.append(image)
        self._bytes += image.size_bytes
        self._ends.add(image.post_apply)
        self.last_txid = image.header.max_txid
        return True

    def image(self) -> Image:
        """Returns all of it as one image."""
        if len(self._images) == 1:
            return self._images[0]
        first, last = self._images[0].header, self._images[-1].header
        newest: dict[int, Page] = {}
        first_page, page_n = b"", 0
        for image in self._images:
            if image.header.commit < page_n:
                newest = {pgno: page for pgno, page in newest.items() if pgno <= image.header.commit}
            page_n = image.header.commit
            newest.update((page[0], page) for page in image.pages())
            first_page = image.first_page or first_page
        pages = [newest[pgno] for pgno in sorted(newest)]
        return Image(
            header=replace(last, min_txid=first.min_txid, pre_apply=first.pre_apply),
            post_apply=self._images[-1].post_apply,
            pages=lambda: pages,
            first_page=first_page,
            size_bytes=self._bytes,
        )

    def _is_ordinary(self, image: Image) -> bool:
        changes_mode = bool(image.first_page) and is_wal_mode(image.first_page) != self._in_wal_mode
        return bool(image.size_bytes and image.header.commit) and not changes_mode

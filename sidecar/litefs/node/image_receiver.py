"""One image on its way from a peer: verified whole before anything of it is offered to storage.

Strategy: what does not follow is refused with its header. Small images stay in memory; larger ones go to a file in
the spool directory; snapshots go page by page into the incoming files of their database. Memory is bounded in every
case, whatever the peer sends: by `FEED_BYTES` of LZ4, and 8 bytes for each page of a snapshot that is on disk.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from litefs.errors import FormatError, PositionMismatchError
from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_decoder import FEED_BYTES, LtxDecoder
from litefs.formats.position import Pos
from litefs.node.image import Image, image_of
from litefs.node.mounted_database import Page
from litefs.storage.disk import Disk
from litefs.storage.incoming import IncomingDatabase

MEMORY_BYTES = 1 << 20
"""Larger images are spooled: a message to the filesystem process is copied several times."""

PAGES_BYTES = 4 << 20
"""Pages kept for the applier; those of an image that has more of them, LZ4 expands well, are read from the log."""

SMALL_SNAPSHOT_PAGES = 256
"""A new database of so few pages comes as an ordinary image: no replacement, no new inode."""


def clear_spool(data_dir: Path) -> None:
    """Removes images that a node process was killed in. For the start of the next one: nobody else needs them."""
    for path in (data_dir / "spool").glob("*.ltx"):
        path.unlink(missing_ok=True)


class ImageReceiver:
    """Takes the bytes of one image.

    Attributes:
        header: known once 100 bytes are there.
        is_replacement: the pages go into the incoming files instead of the log.
        spool_path: where the image lies, if it is large.
    """

    def __init__(self, name: str, data_dir: Path, position: Pos, disk: Disk | None = None) -> None:
        """Args: name: of the database, checked; position: where the log of the database ends here."""
        self._name = name
        self._data_dir = data_dir
        self._position = position
        self._disk = disk or Disk()
        self._decoder = LtxDecoder()
        self._memory = bytearray()
        self._pages: list[Page] = []
        self._pages_bytes = 0
        self._incoming: IncomingDatabase | None = None
        self._fd = -1
        self._spooled_bytes = 0
        self._is_decided = False
        self.size = 0
        self.spool_path: Path | None = None
        self.is_replacement = False

    @property
    def header(self) -> LtxHeader:
        """The image's header.

        Raises:
            FormatError: the image ended before it.
        """
        header = self._decoder.header
        if header is None:
            raise FormatError("image without a header")
        return header

    @property
    def post_apply(self) -> int:
        """The checksum of the database after the image."""
        trailer = self._decoder.trailer
        assert trailer is not None, "finish() was not called"
        return trailer.post_apply

    def feed(self, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            FormatError: they are no image.
            PositionMismatchError: it does not follow what is in the log, and is no snapshot.
            OSError: the disk cannot take it.
        """
        view = memoryview(data)
        for start in range(0, len(view), FEED_BYTES):
            piece = view[start : start + FEED_BYTES]
            pages = self._decoder.feed(piece)
            if not self._is_decided and self._decoder.header is not None:
                self._is_decided = True
                self._decide(self._decoder.header)
            if not self.is_replacement:
                self._keep(bytes(piece))
            if pages:
                self._take_pages(pages)
            if self._decoder.unused:
                raise FormatError("bytes behind the end of an image")
        self.size += len(view)

    def end(self) -> None:
        """Says that all bytes are there. What is no snapshot is finished then.

        Raises:
            FormatError: the image is incomplete.
        """
        if not self._decoder.done:
            raise FormatError("image is cut short")
        if not self.is_replacement:
            self.finish()

    def finish(self) -> None:
        """Makes a snapshot durable, which may take long: on any thread, when nothing else is done with it.

        Raises:
            FormatError: pages are missing.
            OSError: the disk is full or failed.
        """
        if self._incoming is not None:
            checksum = self._incoming.finish()
            if checksum != self.post_apply and self.header.commit:
                raise FormatError(
                    f"{self._name}: pages of the snapshot give {checksum:016x}, not {self.post_apply:016x}"
                )
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def image(self) -> Image | None:
        """Returns what the applier needs; None if that was too much to keep, and is in the log alone."""
        if self.spool_path is not None or self._pages_bytes > PAGES_BYTES:
            return None
        return image_of(self.header, self.post_apply, self._pages)

    def encoded(self) -> bytes:
        """Returns the bytes of an image that stayed in memory."""
        return bytes(self._memory)

    def hand_over(self) -> str:
        """Returns the name of the incoming files of a replacement: whoever is told it removes them if need be."""
        incoming, self._incoming = self._incoming, None
        assert incoming is not None, "a replacement that is complete"
        return incoming.name

    def abort(self) -> None:
        """Removes what was written."""
        if self._incoming is not None:
            self._incoming.abort()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.discard_spool()

    def discard_spool(self) -> None:
        """Removes the spooled file's name, if there is one."""
        if self.spool_path is not None:
            self.spool_path.unlink(missing_ok=True)

    def _decide(self, header: LtxHeader) -> None:
        """Looks where an image belongs, once its header is there."""
        if header.is_snapshot:
            small = header.commit <= SMALL_SNAPSHOT_PAGES and not self._position.txid
            if not small:
                self.is_replacement = True
                directory = self._data_dir / "dbs" / self._name
                self._incoming = IncomingDatabase(directory, header.page_size, header.commit, self._disk)
        elif header.pre_apply_pos != self._position:
            raise PositionMismatchError(
                f"{self._name}: an image that follows {header.pre_apply_pos} came after {self._position}"
            )

    def _keep(self, data: bytes) -> None:
        if self._fd < 0 and len(self._memory) + len(data) <= MEMORY_BYTES:
            self._memory += data
            return
        if self._fd < 0:
            self.spool_path = self._data_dir / "spool" / f"{secrets.token_hex(8)}.ltx"
            self._fd = self._disk.open("spool.create", self.spool_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            data = bytes(self._memory) + data
            self._memory.clear()
        self._disk.write("spool.write", self._fd, data, self._spooled_bytes)
        self._spooled_bytes += len(data)

    def _take_pages(self, pages: list[tuple[int, bytes]]) -> None:
        if self._incoming is not None:
            for first, run in runs(pages):
                self._incoming.write_pages(first, run)
        elif self._pages_bytes <= PAGES_BYTES:
            self._pages_bytes += len(pages) * self.header.page_size
            self._pages.extend(pages)
            if self._pages_bytes > PAGES_BYTES:
                self._pages.clear()


def runs(pages: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yields (first pgno, joined pages) of each contiguous run."""
    for _, group in groupby(enumerate(pages), key=lambda item: item[1][0] - item[0]):
        members = [page for _, page in group]
        yield members[0][0], b"".join(page for _, page in members)

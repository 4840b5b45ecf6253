"""Reading a database exactly as it was at one position, while its commits go on.

Strategy: a page at position T is found in this order:
    the images S+1..T of the log     laid into a sparse file without a name when the reader is made
    the aside file                   old content of a base page that was overwritten since, if its map says so
    the base file                    read before the map is looked at: a map entry that is still 0 after
                                     the read proves that the page was not overwritten before it

No writer waits for a reader: the filesystem process copies a page aside before it overwrites it.
"""

import mmap
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from litefs.errors import CorruptStateError
from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, page_checksums
from litefs.formats.ltx import FLAG_LZ4, LtxHeader
from litefs.formats.ltx_decoder import FEED_BYTES, LtxDecoder
from litefs.formats.ltx_encoder import LtxEncoder
from litefs.formats.position import Checksum, NodeId, Txid
from litefs.storage.disk import Disk
from litefs.storage.log_reader import ImageRef, LogReader

RUN_BYTES = 256 << 10
"""Pages are read and handed out in runs of this size: per-call costs vanish, memory stays small."""


class OpenedSnapshot(Protocol):
    """What has to be known of a snapshot; `link.messages.SnapshotOpened` has it."""

    @property
    def txid(self) -> int:
        """Transaction that the snapshot shows."""

    @property
    def checksum(self) -> int:
        """Of the whole database at `txid`."""

    @property
    def page_size(self) -> int:
        """Bytes; 0 before the first commit."""

    @property
    def page_n(self) -> int:
        """Pages at `txid`."""

    @property
    def timestamp_ms(self) -> int:
        """Of the image `txid`."""

    @property
    def base_txid(self) -> int:
        """S: the base is complete up to here; newer pages lie in the log."""

    @property
    def base_path(self) -> str:
        """The base file."""

    @property
    def aside_path(self) -> str:
        """Sparse file with old content of base pages, each at its place."""

    @property
    def aside_map_path(self) -> str:
        """One byte per page number: set before that base page is overwritten; byte 0: given up."""


class SnapshotReader:
    """Hands out the pages of one position in order, checked against its checksum."""

    def __init__(self, opened: OpenedSnapshot, log_dir: Path, node_id: int, compress: bool) -> None:
        """Opens the files and lays the log's pages out.

        Args:
            opened: what the filesystem process answered.
            node_id, compress: for the header of the image.

        Raises:
            CorruptStateError: the log does not hold what the snapshot needs.
            OSError: no space for the pages of the log.
        """
        self._opened = opened
        self._node_id = node_id
        self._compress = compress
        self._newer: set[int] = set()
        self._fds: list[int] = []
        self._map: mmap.mmap | None = None
        try:
            self._base_fd = self._open(opened.base_path)
            self._aside_fd = self._open(opened.aside_path)
            map_fd = self._open(opened.aside_map_path)
            self._map = mmap.mmap(map_fd, opened.page_n + 1, prot=mmap.PROT_READ)
            directory = os.path.dirname(opened.base_path)
            self._newer_fd = Disk().open_unnamed("snapshot.newer", directory)
            self._fds.append(self._newer_fd)
            self._lay_out_log(log_dir)
        except BaseException:
            self.close()
            raise

    def pages(self) -> Iterator[tuple[int, memoryview]]:
        """Yields (first pgno, contiguous pages) from page 1 to the last; the lock page's bytes are included.

        Raises:
            CorruptStateError: the pages do not give the position's checksum, or the filesystem process
                could not keep them. What was handed out is then not this position's state.
        """
        opened = self._opened
        page_size, page_n = opened.page_size, opened.page_n
        sums: array[int] = array("Q")
        step = max(1, RUN_BYTES // page_size) if page_size else 1
        for first in range(1, page_n + 1, step):
            count = min(step, page_n + 1 - first)
            run = self._run(first, count)
            sums.extend(page_checksums(run, page_size, first))
            yield first, run
        checksum = database_checksum(sums) | CHECKSUM_FLAG
        if self._map is not None and self._map[0]:
            raise CorruptStateError("snapshot given up: no space for the pages overwritten meanwhile")
        if page_n and checksum != opened.checksum:
            raise CorruptStateError(
                f"snapshot of {opened.base_path} at {opened.txid:016x}: "
                f"pages give {checksum:016x}, not {opened.checksum:016x}"
            )

    def ltx_chunks(self) -> Iterator[bytes]:
        """Yields the snapshot as an LTX image, in pieces of some 256 KiB.

        Raises:
            CorruptStateError: as `pages`; the image is left without its trailer.
        """
        opened = self._opened
        encoder = LtxEncoder(
            LtxHeader(
                flags=FLAG_LZ4 if self._compress else 0,
                page_size=opened.page_size,
                commit=opened.page_n,
                min_txid=Txid(1),
                max_txid=Txid(opened.txid),
                timestamp_ms=opened.timestamp_ms,
                pre_apply=Checksum(0),
                node_id=NodeId(self._node_id),
            )
        )
        yield encoder.header_bytes()
        for first, run in self.pages():
            if piece := encoder.pages(first, run):  # none of the lock page
                yield piece
        yield encoder.finish(Checksum(opened.checksum))

    def close(self) -> None:
        """Closes all files."""
        if self._map is not None:
            self._map.close()
            self._map = None
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _open(self, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def _run(self, first: int, count: int) -> memoryview:
        """Returns pages `first`..`first+count-1`. Base first, then the map: see the module's docstring."""
        page_size = self._opened.page_size
        run = bytearray(count * page_size)
        view = memoryview(run)
        os.preadv(self._base_fd, [view], (first - 1) * page_size)
        assert self._map is not None
        if any(self._map[first : first + count]):
            for index in range(count):
                if self._map[first + index]:
                    self._put(view, index, self._aside_fd, first)
        if not self._newer.isdisjoint(range(first, first + count)):
            for index in range(count):
                if first + index in self._newer:
                    self._put(view, index, self._newer_fd, first)
        return view

    def _put(self, view: memoryview, index: int, fd: int, first: int) -> None:
        page_size = self._opened.page_size
        os.preadv(fd, [view[index * page_size : (index + 1) * page_size]], (first + index - 1) * page_size)

    def _lay_out_log(self, log_dir: Path) -> None:
        opened = self._opened
        if opened.base_txid == opened.txid:
            return
        reader = LogReader(log_dir)
        try:
            for ref in reader.images(opened.base_txid + 1, opened.txid):
                self._lay_out(reader, ref)
        finally:
            reader.close()

    def _lay_out(self, reader: LogReader, ref: ImageRef) -> None:
        page_size = self._opened.page_size
        decoder = LtxDecoder()
        for start in range(0, ref.size, FEED_BYTES):
            for pgno, page in decoder.feed(reader.read(ref, start, min(FEED_BYTES, ref.size - start))):
                os.pwrite(self._newer_fd, page, (pgno - 1) * page_size)
                self._newer.add(pgno)
        header = decoder.header
        if header is not None:
            # Pages cut off and grown again since are zeros unless an image holds them; no image leaves them out.
            self._newer = {pgno for pgno in self._newer if pgno <= header.commit}

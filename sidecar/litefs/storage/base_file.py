"""The base file of a database and what still has to reach it.

Strategy: committed pages wait in layers, oldest first, until the log is durable through their
transaction; then the layer is written into the file. A layer that is being written is left alone and
later commits start a new one, so writing may happen in another thread while the loop reads and commits.

Invariants:
    1. A page of transaction n is written into the file only when the log is durable through n.
    2. A reader sees: the newest layer that holds the page, zeros if a newer layer cut it off, else the file.
    3. While a snapshot is open, the old content of a page is put aside before it is overwritten by a
       transaction after the snapshot's.
"""

import errno
import mmap
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from litefs.storage.disk import FREED_AT_ONCE_BYTES, Disk
from litefs.storage.overlay import Overlay
from litefs.storage.retirement import Retirable

WRITE_RUN_BYTES = 1 << 20
"""Contiguous pages go to the file in writes of up to this size."""

_CANNOT_TELL = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""Of a file system, or a kernel, that knows no reads without waiting."""

IOV_MAX = 1024
"""Buffers in one pwritev (Linux limit)."""


@dataclass(slots=True)
class Layer:
    """Committed pages through `txid`, not yet in the file, and the size the file has after them."""

    overlay: Overlay
    txid: int
    size: int
    frozen: bool = False


@dataclass(slots=True)
class Aside:
    """Old content of base pages for one snapshot: page `pgno` at its place in a sparse file, and a map of which.

    `page_size` stays: a database that is dropped meanwhile may be made again with pages of another size.
    """

    snapshot_id: int
    txid: int
    base_txid: int
    page_size: int
    page_n: int
    path: Path
    map_path: Path
    fd: int
    map: mmap.mmap | None


class BaseFile(Retirable):
    """Reads and writes the base file of one database."""

    def __init__(self, disk: Disk, path: Path, page_size: int) -> None:
        """Args: path: the file, created if missing; page_size: bytes, 0 while unknown."""
        super().__init__()
        self._disk = disk
        self.path = path
        self.fd = -1
        self.page_size = page_size
        self.layers: list[Layer] = []
        self.asides: dict[int, Aside] = {}
        self._aside_lock = threading.Lock()
        self.fd = self._open()
        self.size = os.fstat(self.fd).st_size
        self._tells_cold = True
        self.written_txid = 0
        self.is_doubtful = False

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT
        try:
            return self._disk.open("base.open", self.path, flags)
        except PermissionError:
            # An application made the file read-only, which binds its owner, too: us, where we are not root. Should we
            # die before the mode is set back, the owner may write.
            mode = stat.S_IMODE(self.path.stat().st_mode)
            self.path.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
            try:
                return self._disk.open("base.open", self.path, flags)
            finally:
                self.path.chmod(mode)

    # ---- reading ----

    def read(self, offset: int, size: int) -> bytes:
        """Returns up to `size` bytes of the committed state; fewer at its end."""
        if not self.layers:
            return os.pread(self.fd, size, offset)
        return b"".join(self._read_pages(offset, size))

    def warming(self, offset: int, size: int) -> Callable[[], None] | None:
        """Returns what to call in a thread before `read`, if that would wait for the disk; None if it would not.

        The descriptor is one of its own: the file may be closed or replaced before the disk has answered.
        """
        size = min(size, self.size - offset)
        if size <= 0 or not self._tells_cold:
            return None
        try:
            if os.preadv(self.fd, (bytearray(size),), offset, os.RWF_NOWAIT) == size:
                return None
        except BlockingIOError:
            pass
        except OSError as error:
            self._tells_cold = error.errno not in _CANNOT_TELL
            return None  # what else there is, `read` will meet
        try:
            fd = os.dup(self.fd)
        except OSError:
            return None  # no descriptor is left: the read waits for the disk, and does not fail

        def warm() -> None:
            try:
                self._disk.read("base.warm", fd, size, offset)
            finally:
                os.close(fd)

        return warm

    def committed_size(self) -> int:
        """Returns the size in bytes of the committed state, layers included."""
        return self.layers[-1].size if self.layers else self.size

    def page(self, pgno: int) -> bytes:
        """Returns one page of the committed state; zeros where the file has a hole or ends."""
        for layer in reversed(self.layers):
            page = layer.overlay.get(pgno)
            if page is not None:
                return page
            if (pgno - 1) * self.page_size >= layer.overlay.base_limit:
                return bytes(self.page_size)
        page_size = self.page_size
        page = os.pread(self.fd, page_size, (pgno - 1) * page_size)
        return page if len(page) == page_size else page + bytes(page_size - len(page))

    def _read_pages(self, offset: int, size: int) -> Iterator[bytes]:
        page_size = self.page_size
        end = min(offset + size, self.committed_size())
        while offset < end:
            index, skip = divmod(offset, page_size)
            step = min(page_size - skip, end - offset)
            yield self.page(index + 1)[skip : skip + step]
            offset += step

    # ---- writing ----

    def put(self, pgno: int, page: bytes, txid: int, durable_txid: int) -> None:
        """Writes one page of a committed transaction, now if its image is durable, else when it is.

        Raises:
            OSError: the page is nowhere: neither in the file nor in a layer.
        """
        if txid <= durable_txid and not self.layers:
            self.write_page(pgno, page, txid)
            return
        layer = self.open_layer(txid)
        layer.overlay.put(pgno, page)
        layer.size = max(layer.size, pgno * self.page_size)

    def resize(self, size: int, txid: int, durable_txid: int) -> None:
        """Sets the size in bytes for a committed transaction, now if its image is durable, else when it is.

        A large cut is left to whoever writes the layers, in a thread: freeing the blocks takes its time.
        """
        if txid <= durable_txid and not self.layers and self.size - size <= FREED_AT_ONCE_BYTES:
            self.truncate_file(size, txid)
            return
        layer = self.open_layer(txid)
        if size < layer.size:
            layer.overlay.truncate(size)
        layer.size = size

    def write_page(self, pgno: int, page: bytes, txid: int) -> None:
        """Writes one page into the file. Invariant 1 is the caller's to keep."""
        end = pgno * self.page_size
        if self.asides:
            self._put_aside(end - self.page_size, end, txid)
        self._disk.write("base.write", self.fd, page, end - self.page_size)
        if end > self.size:
            self.size = end

    def open_layer(self, txid: int) -> Layer:
        """Returns the layer that takes pages now, through `txid`."""
        if not self.layers or self.layers[-1].frozen:
            overlay = Overlay(self._disk, self.path.parent, self.page_size, WRITE_RUN_BYTES * 4)
            self.layers.append(Layer(overlay, txid, self.committed_size()))
        layer = self.layers[-1]
        layer.txid = max(layer.txid, txid)
        return layer

    def freeze_newest(self) -> None:
        """Makes later commits begin a new layer, so that this one does not wait for theirs to be durable."""
        if self.layers:
            self.layers[-1].frozen = True

    def push_layer(self, overlay: Overlay, txid: int, size: int) -> None:
        """Takes a whole overlay as the newest layer: the pages of a large transaction, uncopied."""
        self.freeze_newest()
        self.layers.append(Layer(overlay, txid, size))

    def freeze(self, durable_txid: int) -> Layer | None:
        """Returns the oldest layer if it may be written now, closed for further pages."""
        if not self.layers or self.layers[0].txid > durable_txid:
            return None
        self.layers[0].frozen = True
        return self.layers[0]

    def write_layer(self, layer: Layer) -> None:
        """Writes a frozen layer into the file. Safe off the loop: `put` and `page` leave a frozen layer alone.

        Crash: some pages written, some not, some torn: the log after S has them all.
        """
        page_size = layer.overlay.page_size  # a dropped database may have been made again with another one since
        if layer.overlay.base_limit < self.size:
            self.truncate_file(layer.overlay.base_limit, layer.txid)
        run: list[bytes] = []
        first = 0
        run_max = min(IOV_MAX, max(1, WRITE_RUN_BYTES // page_size))
        for pgno in sorted(layer.overlay.pages):
            if run and (pgno != first + len(run) or len(run) >= run_max):
                self._write_run(first, run, layer.txid)
                run = []
            if not run:
                first = pgno
            page = layer.overlay.get(pgno)
            assert page is not None
            run.append(page)
        if run:
            self._write_run(first, run, layer.txid)
        if layer.size != self.size:
            self.truncate_file(layer.size, layer.txid)

    def written(self, layer: Layer) -> None:
        """Forgets a layer that is in the file now."""
        assert self.layers[0] is layer
        del self.layers[0]
        self.written_txid = max(self.written_txid, layer.txid)
        layer.overlay.close()

    def truncate_file(self, size: int, txid: int) -> None:
        """Sets the size of the file itself. `size` in bytes."""
        if self.asides and size < self.size:
            self._put_aside(size, self.size, txid)
        self._disk.truncate("base.truncate", self.fd, size)
        self.size = size

    def _write_run(self, first: int, run: list[bytes], txid: int) -> None:
        start = (first - 1) * len(run[0])
        end = start + len(run) * len(run[0])
        if self.asides:
            self._put_aside(start, end, txid)
        self._disk.write_vector("base.write_run", self.fd, run, start)
        self.size = max(self.size, end)

    # ---- snapshots ----

    def open_aside(self, snapshot_id: int, txid: int, base_txid: int, page_n: int) -> Aside:
        """Begins to put old pages aside for a snapshot at `txid`; the log after `base_txid` is kept for it.

        Returns:
            The aside; its two files live until `close_aside`.

        Raises:
            OSError: the disk is full or failed; nothing is left of it.
        """
        path = self.path.with_name(f"aside-{snapshot_id}")
        map_path = self.path.with_name(f"aside-{snapshot_id}.map")
        fd = self._disk.open("aside.open", path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            view = self._make_map(map_path, page_n + 1)
        except OSError:
            self._disk.close("aside.close", fd)
            for left_over in (path, map_path):
                left_over.unlink(missing_ok=True)
            raise
        aside = Aside(snapshot_id, txid, base_txid, self.page_size, page_n, path, map_path, fd, view)
        self.asides[snapshot_id] = aside
        return aside

    def _make_map(self, path: Path, size: int) -> mmap.mmap:
        fd = self._disk.open("aside.open_map", path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            self._disk.truncate("aside.size_map", fd, size)
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def close_aside(self, snapshot_id: int) -> None:
        """Ends a snapshot; one that is unknown is fine."""
        aside = self.asides.pop(snapshot_id, None)
        if aside is not None:
            with self._aside_lock:
                self._discard(aside)

    def _discard(self, aside: Aside) -> None:
        if aside.map is not None:
            aside.map.close()
            aside.map = None
            for path in (aside.path, aside.map_path):
                path.unlink(missing_ok=True)
            self._disk.close_unnamed("aside.close", aside.fd)

    def _put_aside(self, start: int, end: int, txid: int) -> None:
        """Copies bytes about to be overwritten. A snapshot that the disk has no room for is given up, not the write."""
        for aside in list(self.asides.values()):
            # A snapshot may be closed on the loop while a layer is written in a thread.
            with self._aside_lock:
                if txid <= aside.txid or aside.map is None:
                    continue
                try:
                    self._copy_aside(aside, aside.map, start, end)
                except OSError:
                    aside.map[0] = 1  # page 0 does not exist: this tells the reader that the snapshot is spoilt
                    aside.txid = 1 << 63

    def _copy_aside(self, aside: Aside, copied: mmap.mmap, start: int, end: int) -> None:
        page_size = aside.page_size
        for pgno in range(start // page_size + 1, min(-(-end // page_size), aside.page_n) + 1):
            if not copied[pgno]:
                offset = (pgno - 1) * page_size
                self._disk.write("aside.write", aside.fd, os.pread(self.fd, page_size, offset), offset)
                # Set after the copy and before the page changes: a reader that finds 0 after it has read
                # the base has read the old page.
                copied[pgno] = 1

    def sync(self) -> None:
        """Makes the file durable. Safe off the loop.

        Raises:
            OSError: it failed now or before. Later syncs do not write again what a failed one lost, so S stays
                where it is; the next start lays the log over the file anew.
        """
        if self.is_doubtful:
            raise OSError(errno.EIO, "an earlier sync failed")
        try:
            self._disk.sync("base.sync", self.fd)
        except OSError:
            self.is_doubtful = True
            raise

    def close(self) -> None:
        """Closes everything; writes nothing."""
        for aside in self.asides.values():
            self._discard(aside)
        self.asides.clear()
        for layer in self.layers:
            layer.overlay.close()
        self.layers.clear()
        if self.fd >= 0:
            if self.is_retired:
                self._disk.close_unnamed("base.close", self.fd)  # another file has its name
            else:
                self._disk.close("base.close", self.fd)
            self.fd = -1

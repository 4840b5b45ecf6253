"""The filesystem's operations on a real store, asked by calls instead of a kernel.

What the kernel would do is left out: no locks, no caches, no page cache. So a test says exactly which requests
come, in which order, and runs in a millisecond. What SQLite asks is in `sqlite_player`, below the operations.
"""

import errno
import os
import stat
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pyfuse3
import pytest

from litefs.filesystem.inodes import Inode, InodeTable
from litefs.filesystem.loop import Loop
from litefs.filesystem.operations import Operations
from litefs.filesystem.special_files import ClusterView
from litefs.formats.journal import JournalWriter
from litefs.formats.wal import FRAME_HEADER_SIZE, WAL_HEADER_SIZE, WalHeader
from litefs.storage.data_dir import DataDir
from litefs.storage.database import CommitGate, Database, StoreSettings
from litefs.storage.disk import Buffer, Disk
from litefs.storage.store import Store
from tests.support.sqlite_player import PAGE_SIZE, page_one
from tests.support.wal_frames import encode_frame_header

T = TypeVar("T")
SQLITE = os.O_RDWR | os.O_NOFOLLOW
ROOT = pyfuse3.ROOT_INODE


def context(pid: int = 0, *, uid: int = 1000, umask: int = 0o022) -> Any:
    """A request's context; pid 0 is a process that is certainly not the node process."""
    return SimpleNamespace(pid=pid, uid=uid, gid=uid, umask=umask)


NODE = context(threading.get_native_id())
"""A request of this very thread: of the node process, where that is said to be the test's."""


class CountingDisk(Disk):
    """A disk that counts its syncs and fails those of one label when told to."""

    def __init__(self) -> None:
        self.syncs: list[str] = []
        self.failing_sync = ""
        self.failing_write = ""

    def sync(self, label: str, fd: int) -> None:
        self.syncs.append(label)
        if label == self.failing_sync:
            raise OSError(errno.EIO, "injected")
        super().sync(label, fd)

    def write(self, label: str, fd: int, data: Buffer, offset: int) -> None:
        if label == self.failing_write:
            raise OSError(errno.ENOSPC, "injected")
        super().write(label, fd, data, offset)


class FuselessMount:
    """One node's filesystem without a mount."""

    def __init__(
        self,
        path: Path,
        *,
        primary: bool = True,
        disk: Disk | None = None,
        segment_bytes: int = 8 << 20,
        sync_every_commit: bool = False,
    ) -> None:
        self.loop = Loop()
        self.disk = disk or Disk()
        self.data_dir = DataDir(path, self.disk)
        self.gate = CommitGate(float("inf") if primary else 0.0, time.monotonic)
        settings = StoreSettings(node_id=1, segment_bytes=segment_bytes, sync_every_commit=sync_every_commit)
        self.store = Store(self.data_dir, self.disk, settings, self.gate)
        self.store.open(lambda name, done, total: None)
        self.view = ClusterView(is_primary=primary)
        self.inodes = InodeTable(self.data_dir.start, 0o777, os.getuid(), os.getgid())
        self.operations = Operations(self.store, self.inodes, self.loop, self.view)
        self.stopped: list[Exception] = []
        self.invalidated: list[Inode] = []
        self.operations.stop_at_once = self.stopped.append
        self.operations.invalidate = self.invalidated.append
        for name, served in self.store.databases.items():
            if served.database.exists:
                self.inodes.add_database(name, served)

    def close(self) -> None:
        self.store.close()
        self.data_dir.close()

    # ---- requests ----

    def do(self, request: Coroutine[Any, Any, T]) -> T:
        """Returns what a request is answered."""
        return self.loop.run(request)

    def errno(self, request: Coroutine[Any, Any, Any]) -> int:
        """Returns the errno that a request is answered."""
        with pytest.raises(pyfuse3.FUSEError) as caught:
            self.do(request)
        number: int = caught.value.errno
        return number

    def lookup(self, name: str) -> pyfuse3.EntryAttributes:
        return self.do(self.operations.lookup(ROOT, os.fsencode(name), context()))

    def create(self, name: str, flags: int = SQLITE, *, mode: int = 0o644, ctx: Any = None) -> int:
        """Creates and opens a file; returns the handle."""
        mode |= stat.S_IFREG
        info, _ = self.do(self.operations.create(ROOT, os.fsencode(name), mode, flags, ctx or context()))
        return info.fh

    def open(self, name: str, flags: int = SQLITE, *, ctx: Any = None) -> int:
        info = self.do(self.operations.open(self.inodes.by_name[name].number, flags, ctx or context()))
        return info.fh

    def write(self, fh: int, offset: int, data: bytes) -> int:
        return self.do(self.operations.write(fh, offset, data))

    def read(self, fh: int, offset: int, size: int) -> bytes:
        return self.do(self.operations.read(fh, offset, size))

    def fsync(self, fh: int) -> None:
        self.do(self.operations.fsync(fh, True))

    def release(self, fh: int) -> None:
        self.do(self.operations.release(fh))

    def unlink(self, name: str) -> None:
        self.do(self.operations.unlink(ROOT, os.fsencode(name), context()))

    def resize(self, name: str, size: int, fh: int | None = None) -> None:
        self.do(self.set_size(name, size, fh))

    def set_size(self, name: str, size: int, fh: int | None = None) -> Coroutine[Any, Any, Any]:
        return self.set(name, fh, update_size=True, st_size=size)

    def set(self, name: str, fh: int | None = None, **changes: Any) -> Coroutine[Any, Any, Any]:
        """Returns the setattr request: `update_…` flags and `st_…` values by name."""
        fields = SimpleNamespace(**dict.fromkeys(_FIELDS, False))
        attributes = pyfuse3.EntryAttributes()
        for name_of, value in changes.items():
            setattr(fields if name_of.startswith("update_") else attributes, name_of, value)
        number = self.inodes.by_name[name].number
        return self.operations.setattr(number, attributes, fields, fh, context())

    # ---- what holds ----

    def become_replica(self) -> None:
        self.gate.primary_until = 0.0
        self.view.is_primary = False

    def content(self, name: str = "a.db") -> bytes:
        """The database as a new reader finds it."""
        fh = self.open(name)
        data = self.read(fh, 0, 1 << 20)
        self.release(fh)
        return data

    def position(self, name: str = "a.db") -> int:
        return self.database(name).txid

    # ---- transactions ----

    def database(self, name: str) -> Database:
        return self.store.databases[name].database

    def begin(self, name: str, page_n: int, *, ctx: Any = None) -> int:
        """Creates a journal with a header, as SQLite does with `synchronous=OFF`; returns its handle."""
        fh = self.create(name + "-journal", ctx=ctx)
        self.write(fh, 0, JournalWriter(page_size=PAGE_SIZE, page_n=page_n, nonce=1).header(0))
        return fh

    def commit(self, name: str, fh: int, counter: int, page_n: int = 2, *, wal: bool = False) -> None:
        """One transaction of journal mode DELETE; the pages depend on `counter` only."""
        journal = self.begin(name, self.database(name).page_n)
        for offset, page in enumerate(pages(counter, page_n, wal=wal)):
            self.write(fh, offset * PAGE_SIZE, page)
        self.release(journal)
        self.unlink(name + "-journal")

    def make_wal_database(self, name: str = "a.db") -> tuple[int, int]:
        """A database of one transaction in WAL mode; returns the handles of database and WAL."""
        fh = self.create(name)
        self.commit(name, fh, 1, wal=True)
        return fh, self.create(name + "-wal")

    def wal_commit(self, fh: int, wal: WalHeader, frame_n: int, changed: dict[int, bytes], page_n: int) -> int:
        """Appends one transaction behind `frame_n` frames of a WAL; returns how many there are then."""
        if not frame_n:
            self.write(fh, 0, wal.encode())
        checksum = wal.checksum
        for place, (pgno, page) in enumerate(changed.items(), 1):
            offset = WAL_HEADER_SIZE + (frame_n + place - 1) * (FRAME_HEADER_SIZE + PAGE_SIZE)
            header, checksum = encode_frame_header(wal, checksum, pgno, page_n * (place == len(changed)), page)
            self.write(fh, offset, header)
            self.write(fh, offset + FRAME_HEADER_SIZE, page)
        return frame_n + len(changed)


WAL = WalHeader(big_endian=False, page_size=PAGE_SIZE, checkpoint_seq=0, salt1=1, salt2=2)

_FIELDS = (
    "update_atime", "update_mtime", "update_ctime", "update_mode", "update_uid", "update_gid", "update_size",
)  # fmt: skip


def pages(counter: int, page_n: int = 2, *, wal: bool = False) -> list[bytes]:
    """The pages of a database at one state."""
    return [page_one(page_n, counter, wal=wal), *(bytes([counter % 251]) * PAGE_SIZE for _ in range(page_n - 1))]

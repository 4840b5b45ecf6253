"""The loop waits for no disk: whatever syncs, copies or frees is done in a thread.

Not measured but watched: each call that may wait for the platter notes whether it is made on the loop's thread.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litefs.filesystem.inodes import Kind
from litefs.formats.database_name import REPLACEMENT_PREFIX
from litefs.storage.disk import Disk
from litefs.storage.housekeeping import Housekeeper
from litefs.storage.incoming import IncomingDatabase
from litefs.storage.log_reader import LogReader
from litefs.storage.replacement import discard_old_logs, prepare_replacement
from litefs.storage.state import DatabaseState
from tests.support.fuseless_mount import NODE, ROOT, WAL, FuselessMount, pages
from tests.support.sqlite_player import PAGE_SIZE, page_one

COPY = os.O_WRONLY | os.O_CREAT
SEGMENT_BYTES = 6 << 10
"""Small, so that a handful of commits roll the log."""


class WatchingDisk(Disk):
    """Notes where calls are made that wait for the platter: syncs, copies, and the freeing of whole trees."""

    def __init__(self) -> None:
        self._loop_thread = threading.get_native_id()
        self.is_armed = False
        self.on_loop: list[str] = []
        self.in_threads: list[str] = []

    def _note(self, label: str) -> None:
        if self.is_armed:
            (self.on_loop if threading.get_native_id() == self._loop_thread else self.in_threads).append(label)

    def read(self, label: str, fd: int, size: int, offset: int) -> bytes:
        if label == "base.warm":  # the others read what was written a moment ago
            self._note(label)
        return super().read(label, fd, size, offset)

    def sync(self, label: str, fd: int) -> None:
        self._note(label)
        super().sync(label, fd)

    def sync_directory(self, label: str, path: Path | str) -> None:
        self._note(label)
        super().sync_directory(label, path)

    def copy(
        self, label: str, source_fd: int, target_fd: int, source_offset: int, target_offset: int, size: int
    ) -> int:
        self._note(label)
        return super().copy(label, source_fd, target_fd, source_offset, target_offset, size)

    def remove_tree(self, label: str, path: Path | str) -> None:
        self._note(label)
        super().remove_tree(label, path)


@pytest.fixture
def disk() -> WatchingDisk:
    return WatchingDisk()


@pytest.fixture
def mount(tmp_path: Path, disk: WatchingDisk) -> Iterator[FuselessMount]:
    mount = FuselessMount(tmp_path / "data", disk=disk, segment_bytes=SEGMENT_BYTES)
    mount.operations.node_pid = os.getpid()
    mount.commit("a.db", mount.create("a.db"), 1)
    disk.is_armed = True
    yield mount
    disk.is_armed = False
    mount.close()


def noise(counter: int) -> list[bytes]:
    """Pages that LZ4 cannot make smaller."""
    return [page_one(3, counter, wal=False), os.urandom(PAGE_SIZE), os.urandom(PAGE_SIZE)]


def synced_commits(mount: FuselessMount) -> None:
    """Transactions of `synchronous=FULL`, over several segments."""
    fh = mount.open("a.db")
    for counter in range(2, 9):
        journal = mount.begin("a.db", mount.database("a.db").page_n)
        for index, page in enumerate(noise(counter)):
            mount.write(fh, index * PAGE_SIZE, page)
        mount.fsync(fh)
        mount.unlink("a.db-journal")
        mount.release(journal)
    assert len(list((mount.store.directory("a.db") / "log").glob("*.ltxlog"))) > 2


def wal_commits(mount: FuselessMount) -> None:
    """The same in WAL mode."""
    _, wal = mount.make_wal_database("b.db")
    frame_n = 0
    for _ in range(7):
        frame_n = mount.wal_commit(wal, WAL, frame_n, {2: os.urandom(PAGE_SIZE), 3: os.urandom(PAGE_SIZE)}, 3)
        mount.fsync(wal)
    assert len(list((mount.store.directory("b.db") / "log").glob("*.ltxlog"))) > 2


def rolled_back_after_the_sync(mount: FuselessMount) -> None:
    """The image is in the log by then, and has to be voided."""
    fh = mount.open("a.db")
    old = pages(1)
    journal = mount.begin("a.db", 2)
    mount.write(fh, PAGE_SIZE, os.urandom(PAGE_SIZE))
    mount.fsync(fh)
    mount.write(fh, PAGE_SIZE, old[1])
    mount.unlink("a.db-journal")
    mount.release(journal)
    assert mount.content() == b"".join(old)
    assert mount.position() == 1


def copied_over(mount: FuselessMount) -> None:
    """`cp` over the database, then `dd conv=notrunc` into it, which begins with a copy."""
    fh = mount.open("a.db", COPY | os.O_TRUNC)
    mount.write(fh, 0, b"".join(noise(2)))
    mount.release(fh)
    fh = mount.open("a.db", COPY)
    mount.write(fh, PAGE_SIZE, b"new")
    mount.release(fh)
    assert mount.position() == 3
    assert mount.content()[PAGE_SIZE : PAGE_SIZE + 3] == b"new"


def emptied(mount: FuselessMount) -> None:
    """`truncate -s 0`: an image without pages."""
    mount.release(mount.open("a.db", COPY | os.O_TRUNC))
    assert mount.position() == 2


def dropped(mount: FuselessMount) -> None:
    """Dropped with a transaction prepared, and made again."""
    fh = mount.open("a.db")
    mount.begin("a.db", 2)
    mount.write(fh, PAGE_SIZE, os.urandom(PAGE_SIZE))
    mount.fsync(fh)
    mount.unlink("a.db")
    mount.unlink("a.db-journal")
    mount.commit("a.db", mount.create("a.db"), 5)
    assert mount.position() == 3


def replaced(mount: FuselessMount) -> None:
    """An import or a snapshot: prepared in a thread by the link, flipped in by the rename."""
    directory = mount.store.directory("a.db")
    incoming = IncomingDatabase(directory, PAGE_SIZE, 2)
    incoming.write_pages(1, b"".join(pages(9)))
    state = DatabaseState(
        base_txid=2, checksum=incoming.finish(), page_size=PAGE_SIZE, page_n=2, timestamp_ms=1, incoming=incoming.name
    )
    prepare_replacement(Disk(), directory, state)
    waiting = REPLACEMENT_PREFIX + "a.db"
    mount.inodes.add(Kind.REPLACEMENT, waiting, 0o600, 0, 0)
    mount.do(mount.operations.rename(ROOT, waiting.encode(), ROOT, b"a.db", 0, NODE))
    mount.do(mount.loop.drive(discard_old_logs(mount.disk, directory)))
    assert mount.content() == b"".join(pages(9))


def tidied(mount: FuselessMount) -> None:
    """Settling, checkpoints of the log, and the removal of its segments."""
    synced_commits(mount)
    housekeeper, database = Housekeeper(0.0), mount.database("a.db")
    for steps in (
        housekeeper.settle(database),
        housekeeper.prepare_segment(database),
        housekeeper.checkpoint(database, 0.0),
        housekeeper.forget(database, 1e18),
    ):
        mount.do(mount.loop.drive(steps))
    assert database.base_txid == mount.position()
    reader = LogReader(mount.store.directory("a.db") / "log")
    assert database.log.first_txid() > 1
    reader.close()


WORK = [synced_commits, wal_commits, rolled_back_after_the_sync, copied_over, emptied, dropped, replaced, tidied]


@pytest.mark.parametrize("work", WORK)
def test_nothing_waits_for_the_disk_on_the_loop(
    mount: FuselessMount, disk: WatchingDisk, work: Callable[[FuselessMount], None]
) -> None:
    work(mount)
    assert disk.on_loop == []
    assert disk.in_threads or work is emptied


def test_pages_that_are_not_cached_are_read_in_a_thread(mount: FuselessMount, disk: WatchingDisk) -> None:
    housekeeper, database = Housekeeper(0.0), mount.database("a.db")
    mount.do(mount.loop.drive(housekeeper.settle(database)))
    mount.do(mount.loop.drive(housekeeper.checkpoint(database, 0.0)))
    assert not database.base.layers
    os.fsync(database.base.fd)
    assert mount.content() == b"".join(pages(1))
    assert "base.warm" not in disk.in_threads
    os.posix_fadvise(database.base.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    warm = database.base.warming(0, PAGE_SIZE)
    if warm is None:
        pytest.skip("this file system keeps what it was told to forget, or cannot tell what it has cached")
    warm()  # having asked, the kernel may have begun to read
    disk.on_loop.clear()
    os.posix_fadvise(database.base.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert mount.content() == b"".join(pages(1))
    assert "base.warm" in disk.in_threads
    assert disk.on_loop == []


def test_an_error_of_the_disk_reaches_the_reader_of_a_cold_page(mount: FuselessMount, disk: WatchingDisk) -> None:
    database = mount.database("a.db")
    fh = mount.open("a.db")

    def fail() -> None:
        raise OSError(errno.EIO, "injected")

    database.base.warming = lambda offset, size: fail  # type: ignore[method-assign]
    assert mount.errno(mount.operations.read(fh, 0, PAGE_SIZE)) == errno.EIO

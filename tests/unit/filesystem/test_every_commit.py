"""Where every commit is synced: when it is answered, when others see it, and how it is refused; without a kernel."""

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyfuse3
import pytest

from tests.support.fuseless_mount import ROOT, WAL, CountingDisk, FuselessMount, context, pages
from tests.support.sqlite_player import PAGE_SIZE


class ObservedDisk(CountingDisk):
    """Calls back in the middle of each sync of a log."""

    def __init__(self) -> None:
        super().__init__()
        self.on_log_sync: Callable[[], None] = lambda: None

    def sync(self, label: str, fd: int) -> None:
        if label == "log.sync":
            self.on_log_sync()
        super().sync(label, fd)


@pytest.fixture
def disk() -> ObservedDisk:
    return ObservedDisk()


@pytest.fixture
def mount(tmp_path: Path, disk: ObservedDisk) -> Iterator[FuselessMount]:
    mount = FuselessMount(tmp_path / "data", disk=disk, sync_every_commit=True)
    yield mount
    mount.close()


def commit_wal(mount: FuselessMount) -> None:
    _, wal = mount.make_wal_database()
    mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)


def commit_rollback(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    mount.commit("a.db", fh, 2)


@pytest.mark.parametrize("commit", [commit_wal, commit_rollback])
def test_the_position_moves_when_the_disk_has_the_commit(
    mount: FuselessMount, disk: ObservedDisk, commit: Callable[[FuselessMount], None]
) -> None:
    """So no replica is sent what a power cut may take from this node."""
    seen: list[tuple[int, bool]] = []
    disk.on_log_sync = lambda: seen.append((mount.position(), threading.current_thread() is threading.main_thread()))
    commit(mount)
    assert seen == [(0, False), (1, False)], "each commit is synced once, off the loop, before its position moves"
    assert (mount.database("a.db").log.durable_txid, mount.position()) == (2, 2)


def test_a_sync_that_the_application_asks_for_as_well_adds_none(mount: FuselessMount, disk: ObservedDisk) -> None:
    _, wal = mount.make_wal_database()
    disk.syncs.clear()
    mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    mount.fsync(wal)
    assert disk.syncs == ["log.sync"]


def test_a_synced_rollback_transaction_waits_in_its_sync_and_not_in_the_unlink(
    mount: FuselessMount, disk: ObservedDisk
) -> None:
    fh = mount.create("a.db")
    journal = mount.begin("a.db", 0)
    mount.fsync(journal)
    mount.write(fh, 0, pages(1, 1)[0])
    mount.fsync(fh)
    disk.syncs.clear()
    mount.unlink("a.db-journal")
    assert (disk.syncs, mount.position()) == ([], 1)


def test_what_changes_nothing_is_not_synced(mount: FuselessMount, disk: ObservedDisk) -> None:
    commit_rollback(mount)
    disk.syncs.clear()
    fh = mount.open("a.db")
    mount.begin("a.db", 2)
    mount.write(fh, PAGE_SIZE, pages(2)[1])
    mount.unlink("a.db-journal")
    assert (disk.syncs, mount.position()) == ([], 2)


def test_a_wal_commit_whose_sync_fails_is_refused_and_the_process_goes_on(
    mount: FuselessMount, disk: ObservedDisk
) -> None:
    _, wal = mount.make_wal_database()
    frames = mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    disk.failing_sync = "log.sync"
    with pytest.raises(pyfuse3.FUSEError) as refused:
        mount.wal_commit(wal, WAL, frames, {2: b"x" * PAGE_SIZE}, 2)
    assert refused.value.errno == errno.EIO
    assert (mount.stopped, mount.position()) == ([], 2)
    disk.failing_sync = ""
    mount.wal_commit(wal, WAL, frames, {2: b"x" * PAGE_SIZE}, 2)
    assert (mount.database("a.db").log.durable_txid, mount.position()) == (3, 3)


def test_a_wal_commit_during_whose_sync_the_lease_runs_out_is_refused(mount: FuselessMount, disk: ObservedDisk) -> None:
    _, wal = mount.make_wal_database()
    disk.on_log_sync = mount.become_replica
    with pytest.raises(pyfuse3.FUSEError) as refused:
        mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    assert refused.value.errno == errno.EACCES
    assert (mount.position(), mount.database("a.db").log.last_txid) == (1, 1)


def test_a_rollback_commit_during_whose_sync_the_lease_runs_out_is_refused(
    mount: FuselessMount, disk: ObservedDisk
) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    mount.begin("a.db", 2)
    mount.write(fh, PAGE_SIZE, pages(2)[1])
    disk.on_log_sync = mount.become_replica
    assert mount.errno(mount.operations.unlink(ROOT, b"a.db-journal", context())) == errno.EACCES
    assert (mount.position(), mount.database("a.db").log.last_txid) == (1, 1)

"""Which request makes a transaction, when it is durable, and how it is refused; without a kernel."""

import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pyfuse3
import pytest

from litefs.errors import DiskLostError
from litefs.formats.journal import JOURNAL_HEADER_SIZE
from litefs.storage.steps import Steps
from tests.support.fuseless_mount import NODE, ROOT, SQLITE, WAL, CountingDisk, FuselessMount, context, pages
from tests.support.sqlite_player import PAGE_SIZE

COPY = os.O_WRONLY
JOURNAL_HEADER = bytes.fromhex("d9d505f920a163d7") + bytes(4) + b"\0\0\0\1" + b"\0\0\0\2" + b"\0\0\2\0\0\0\4\0"


def iter_until(done: Callable[[], bool]) -> Steps[None]:
    """Steps that give way until `done()`."""
    for _ in range(100_000):
        if done():
            return
        yield None
    raise AssertionError("it did not come to pass")


def is_durable(mount: FuselessMount, txid: int) -> bool:
    return mount.database("a.db").log.durable_txid == txid


def iter_turns(turn_n: int) -> Steps[None]:
    """Steps that give way so many times."""
    for _ in range(turn_n):
        yield None


# ---- commits of the rollback modes ----


def test_a_transaction_is_committed_by_the_unlink_of_its_journal(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    journal = mount.begin("a.db", 0)
    for index, page in enumerate(pages(1)):
        mount.write(fh, index * PAGE_SIZE, page)
    assert mount.read(fh, 0, 1 << 20) == b"".join(pages(1))
    assert mount.position() == 0
    mount.unlink("a.db-journal")
    assert mount.position() == 1
    assert mount.content() == b"".join(pages(1))
    mount.release(journal)
    assert mount.lookup("a.db-journal").st_ino == 0


def end_by_truncation(mount: FuselessMount, journal: int) -> None:
    mount.resize("a.db-journal", 0, journal)


def end_by_opening(mount: FuselessMount, journal: int) -> None:
    mount.open("a.db-journal", SQLITE | os.O_TRUNC)


def end_by_zeroing(mount: FuselessMount, journal: int) -> None:
    mount.write(journal, 0, bytes(JOURNAL_HEADER_SIZE))


def end_by_unlinking(mount: FuselessMount, journal: int) -> None:
    mount.unlink("a.db-journal")


ENDS = [end_by_unlinking, end_by_truncation, end_by_opening, end_by_zeroing]


@pytest.mark.parametrize("end", ENDS)
def test_a_journal_ends_in_four_ways(mount: FuselessMount, end: Any) -> None:
    fh = mount.create("a.db")
    for counter in (1, 2):
        journal = mount.begin("a.db", mount.database("a.db").page_n) if counter == 1 or end is end_by_unlinking else 0
        if not journal:
            journal = mount.open("a.db-journal")
            mount.write(journal, 0, JOURNAL_HEADER)
        for index, page in enumerate(pages(counter)):
            mount.write(fh, index * PAGE_SIZE, page)
        end(mount, journal)
        assert mount.position() == counter
        assert mount.content() == b"".join(pages(counter))


@pytest.mark.parametrize("end", ENDS)
def test_a_node_that_lost_the_lease_refuses_the_commit_and_allows_the_rollback(mount: FuselessMount, end: Any) -> None:
    """The journal stays hot; whoever rolls it back, on this replica too, must succeed."""
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    journal = mount.begin("a.db", 2)
    mount.write(fh, PAGE_SIZE, pages(2)[1])
    mount.become_replica()
    with pytest.raises(pyfuse3.FUSEError) as refused:
        end(mount, journal)
    assert refused.value.errno == errno.EACCES
    assert "a.db-journal" in mount.inodes.by_name
    mount.write(fh, PAGE_SIZE, pages(1)[1])
    mount.fsync(fh)
    end(mount, journal)
    assert mount.position() == 1
    assert mount.content() == b"".join(pages(1))


def test_a_synced_transaction_is_durable_before_its_journal_goes(mount: FuselessMount, disk: CountingDisk) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    journal = mount.begin("a.db", 2)
    mount.fsync(journal)
    for index, page in enumerate(pages(2)):
        mount.write(fh, index * PAGE_SIZE, page)
    disk.syncs.clear()
    mount.fsync(fh)
    assert disk.syncs == ["log.sync"]
    assert (mount.database("a.db").log.durable_txid, mount.position()) == (2, 1)
    mount.unlink("a.db-journal")
    assert disk.syncs == ["log.sync"]
    assert mount.position() == 2


def test_a_synced_journal_makes_the_commit_durable_without_a_sync_of_the_database(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    journal = mount.begin("a.db", 0)
    mount.fsync(journal)
    mount.write(fh, 0, pages(1, 1)[0])
    mount.unlink("a.db-journal")
    assert (mount.database("a.db").log.durable_txid, mount.position()) == (1, 1)


def test_a_transaction_without_syncs_adds_none(mount: FuselessMount, disk: CountingDisk) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    disk.syncs.clear()
    mount.commit("a.db", fh, 2)
    assert disk.syncs == []


def test_a_sync_that_fails_refuses_the_transaction(mount: FuselessMount, disk: CountingDisk) -> None:
    fh = mount.create("a.db")
    mount.begin("a.db", 0)
    mount.write(fh, 0, pages(1, 1)[0])
    disk.failing_sync = "log.sync"
    assert mount.errno(mount.operations.fsync(fh, True)) == errno.EIO
    assert mount.stopped == []
    assert mount.position() == 0


def test_a_full_disk_is_said_to_be_full(mount: FuselessMount, disk: CountingDisk) -> None:
    fh = mount.create("a.db")
    mount.begin("a.db", 0)
    mount.write(fh, 0, pages(1, 1)[0])
    disk.failing_write = "log.append"
    assert mount.errno(mount.operations.unlink(ROOT, b"a.db-journal", context())) == errno.ENOSPC
    disk.failing_write = ""
    mount.unlink("a.db-journal")
    assert mount.position() == 1


def test_a_removed_journal_can_still_be_read_by_who_has_it_open(mount: FuselessMount) -> None:
    mount.create("a.db")
    journal = mount.begin("a.db", 0)
    mount.unlink("a.db-journal")
    assert len(mount.read(journal, 0, 8)) == 8
    mount.write(journal, 0, b"scratch")
    assert mount.position() == 0
    number = mount.operations._handles[journal].inode.number
    mount.release(journal)
    mount.do(mount.operations.forget([(number, 1)]))
    assert number not in mount.inodes.by_number


def test_several_databases_commit_with_their_super_journal(mount: FuselessMount) -> None:
    handles = {name: mount.create(name) for name in ("a.db", "b.db")}
    mount.create("a.db-mj012345678")
    for name, fh in handles.items():
        journal = mount.begin(name, 0)
        master = b"/mnt/a.db-mj012345678"
        trailer = len(master).to_bytes(4, "big") + sum(master).to_bytes(4, "big") + JOURNAL_HEADER[:8]
        mount.write(journal, 512, (0x40000000 // PAGE_SIZE + 1).to_bytes(4, "big") + master + trailer)
        mount.write(fh, 0, pages(1, 1)[0])
        mount.fsync(fh)
    assert (mount.position("a.db"), mount.position("b.db")) == (0, 0)
    mount.unlink("a.db-mj012345678")
    assert (mount.position("a.db"), mount.position("b.db")) == (1, 1)
    mount.become_replica()
    for name in handles:
        mount.unlink(name + "-journal")
    assert (mount.position("a.db"), mount.position("b.db")) == (1, 1)


# ---- WAL ----


def test_a_wal_commit_is_taken_with_its_last_byte_and_made_durable_by_its_sync(
    mount: FuselessMount, disk: CountingDisk
) -> None:
    _, wal = mount.make_wal_database()
    disk.syncs.clear()
    mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    assert (mount.position(), disk.syncs) == (2, [])
    mount.fsync(wal)
    assert (mount.database("a.db").log.durable_txid, disk.syncs) == (2, ["log.sync"])


def test_where_commits_are_synced_the_sync_begins_with_the_commit(mount: FuselessMount, disk: CountingDisk) -> None:
    _, wal = mount.make_wal_database()
    frames = mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    mount.fsync(wal)
    disk.syncs.clear()
    frames = mount.wal_commit(wal, WAL, frames, {2: b"x" * PAGE_SIZE}, 2)
    mount.do(mount.loop.drive(iter_until(lambda: disk.syncs == ["log.sync"])))
    mount.fsync(wal)
    assert (mount.database("a.db").log.durable_txid, disk.syncs) == (3, ["log.sync"])
    mount.wal_commit(wal, WAL, frames, {2: b"y" * PAGE_SIZE}, 2)
    mount.fsync(wal)
    assert mount.database("a.db").log.durable_txid == 4


def test_where_commits_are_no_longer_synced_no_sync_is_begun(mount: FuselessMount, disk: CountingDisk) -> None:
    """After `synchronous` was set from FULL to NORMAL one sync too many is begun, and no more."""
    _, wal = mount.make_wal_database()
    frames = mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    mount.fsync(wal)
    frames = mount.wal_commit(wal, WAL, frames, {2: b"x" * PAGE_SIZE}, 2)
    mount.do(mount.loop.drive(iter_until(partial(is_durable, mount, 3))))
    disk.syncs.clear()
    for byte in range(3):
        frames = mount.wal_commit(wal, WAL, frames, {2: bytes([byte]) * PAGE_SIZE}, 2)
        mount.do(mount.loop.drive(iter_turns(20)))
    assert disk.syncs == []


def test_each_synced_commit_has_its_sync_begun_early(mount: FuselessMount, disk: CountingDisk) -> None:
    _, wal = mount.make_wal_database()
    frames = mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    mount.fsync(wal)
    for txid in (3, 4, 5):
        frames = mount.wal_commit(wal, WAL, frames, {2: bytes([txid]) * PAGE_SIZE}, 2)
        mount.do(mount.loop.drive(iter_until(partial(is_durable, mount, txid))))
        mount.fsync(wal)


def test_a_wal_sync_that_fails_stops_the_process(mount: FuselessMount, disk: CountingDisk) -> None:
    """The commit was answered already: it can be neither refused nor promised."""
    _, wal = mount.make_wal_database()
    mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    disk.failing_sync = "log.sync"
    assert mount.errno(mount.operations.fsync(wal, True)) == errno.EIO
    assert [type(error) for error in mount.stopped] == [DiskLostError]


def test_a_sync_begun_early_that_fails_is_not_made_good_by_a_later_one(
    mount: FuselessMount, disk: CountingDisk
) -> None:
    _, wal = mount.make_wal_database()
    frames = mount.wal_commit(wal, WAL, 0, {2: bytes(PAGE_SIZE)}, 2)
    mount.fsync(wal)
    disk.syncs.clear()
    disk.failing_sync = "log.sync"
    mount.wal_commit(wal, WAL, frames, {2: b"x" * PAGE_SIZE}, 2)
    mount.do(mount.loop.drive(iter_until(lambda: not mount.loop._pending_jobs and bool(disk.syncs))))
    disk.failing_sync = ""
    assert mount.errno(mount.operations.fsync(wal, True)) == errno.EIO
    assert [type(error) for error in mount.stopped] == [DiskLostError]


def test_a_replica_opens_a_wal_for_reading_only(mount: FuselessMount) -> None:
    mount.make_wal_database()
    mount.become_replica()
    number = mount.inodes.by_name["a.db-wal"].number
    assert mount.errno(mount.operations.open(number, SQLITE, context())) == errno.EACCES
    mount.open("a.db-wal", os.O_RDONLY)
    mount.open("a.db-wal", ctx=NODE)


def test_the_frames_of_a_replica_are_refused_each_time_they_are_asked(mount: FuselessMount) -> None:
    """SQLite asks twice: it retries after a short write."""
    _, wal = mount.make_wal_database()
    mount.become_replica()
    with pytest.raises(pyfuse3.FUSEError) as refused:
        mount.wal_commit(wal, WAL, 0, {2: b"x" * PAGE_SIZE}, 2)
    assert refused.value.errno == errno.EACCES
    last = mount.operations.write(wal, 32 + 24, b"x" * PAGE_SIZE)
    assert mount.errno(last) == errno.EACCES
    assert mount.position() == 1


@pytest.mark.parametrize("name", ["a.db-wal", "a.db-shm"])
def test_a_replica_keeps_the_files_of_wal_mode(mount: FuselessMount, name: str) -> None:
    mount.make_wal_database()
    mount.create("a.db-shm")
    mount.become_replica()
    assert mount.errno(mount.operations.unlink(ROOT, name.encode(), context())) == errno.EACCES
    mount.do(mount.operations.unlink(ROOT, name.encode(), NODE))
    assert name not in mount.inodes.by_name


# ---- writes that no journal announces ----


def test_sqlite_without_a_journal_is_refused(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    assert mount.errno(mount.operations.write(fh, 0, pages(2)[0])) == errno.EIO
    assert mount.errno(mount.set_size("a.db", PAGE_SIZE, fh)) == errno.EIO
    assert mount.content() == b"".join(pages(1))


def test_a_copied_file_becomes_one_transaction_when_it_is_closed(mount: FuselessMount) -> None:
    fh = mount.create("a.db", COPY)
    for index, page in enumerate(pages(1)):
        mount.write(fh, index * PAGE_SIZE, page)
    assert mount.position() == 0
    mount.release(fh)
    assert mount.position() == 1
    assert mount.database("a.db").page_n == 2
    assert mount.content() == b"".join(pages(1))


def test_a_copy_over_a_database_replaces_it(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1, 5)
    copy = mount.open("a.db", COPY | os.O_TRUNC)
    mount.write(copy, 0, b"".join(pages(2)))
    mount.release(copy)
    assert mount.position() == 2
    assert mount.content() == b"".join(pages(2))


def test_what_is_no_database_stays_on_this_node(mount: FuselessMount, caplog: pytest.LogCaptureFixture) -> None:
    fh = mount.create("notes.txt", COPY)
    mount.write(fh, 0, b"no database")
    with caplog.at_level(logging.WARNING):
        mount.release(fh)
    assert "stays on this node only" in caplog.text
    assert mount.position("notes.txt") == 0
    assert mount.content("notes.txt") == b"no database"


def test_a_replica_takes_no_copy(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    mount.become_replica()
    copy = mount.open("a.db", COPY)
    assert mount.errno(mount.operations.write(copy, 0, pages(2)[0])) == errno.EACCES
    inode = mount.inodes.by_name["a.db"]
    handles = inode.handle_n
    assert mount.errno(mount.operations.open(inode.number, COPY | os.O_TRUNC, context())) == errno.EACCES
    assert (inode.handle_n, len(mount.operations._handles)) == (handles, handles)
    assert mount.content() == b"".join(pages(1))
